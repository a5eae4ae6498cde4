import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from image_classifier.backbones.efficientnet_lite import EMBEDDING
from image_classifier.backbones.feature_graph import FEATURES, add_classifier, build_feature_graph
from image_classifier.backbones.shipped import SHIPPED
from image_classifier.backbones.weights import open_shipped
from image_classifier.package.model import INPUT, Graph
from image_classifier.training.quantization import ImageRows, _scale_temperature, quantize_int8


@pytest.mark.parametrize("size", [64, 97, 224])
@pytest.mark.parametrize("name", SHIPPED)
def test_the_graph_computes_what_the_network_computes(name, size):
    network = open_shipped(SHIPPED[name])
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    graph = build_feature_graph(network, size)
    (features,) = Graph(graph.model.SerializeToString(), 1).session.run([FEATURES], {INPUT: images})
    assert features.shape == (2, graph.dimensions)
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        expected = network(pixels).mean((2, 3)).numpy()
    np.testing.assert_allclose(features[:, -EMBEDDING:], expected, atol=1e-3)


def test_the_features_are_the_means_of_the_last_five_maps():
    network = open_shipped(SHIPPED["efficientnet-lite0"])
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    graph = build_feature_graph(network, 64)
    assert graph.dimensions == 80 + 112 + 192 + 320 + 1280
    (features,) = Graph(graph.model.SerializeToString(), 1).session.run([FEATURES], {INPUT: images})
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        expected = [each.mean((2, 3)) for each in network.maps_from(0, network.stem(pixels))[-5:]]
    np.testing.assert_allclose(features, torch.cat(expected, 1).numpy(), atol=1e-3)


def test_the_classifier_gives_calibrated_probabilities():
    graph = build_feature_graph(open_shipped(SHIPPED["efficientnet-lite0"]), 64)
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.1, (graph.dimensions, 3)).astype(np.float32)
    bias = random.normal(0, 1, 3).astype(np.float32)
    images = random.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    (features,) = Graph(graph.model.SerializeToString(), 1).session.run([FEATURES], {INPUT: images})
    model = add_classifier(graph, weight, bias, temperature=2.0).SerializeToString()
    logits = (features @ weight + bias) / 2
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Graph(model, 1).probabilities(images), expected, atol=1e-5)


def linear_classifier(graph, classes):
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.1, (graph.dimensions, classes)).astype(np.float32)
    return weight, random.normal(0, 1, classes).astype(np.float32)


def without_more_outputs(graph, weight, bias, temperature):
    """The model as it is without the embedding and the activation map."""
    model = add_classifier(replace(graph, maps=()), weight, bias, temperature)
    model.graph.node.remove(next(node for node in model.graph.node if "embedding" in node.output))
    del model.graph.output[1:]
    return model


@pytest.mark.parametrize("size", [64, 97, 224])
@pytest.mark.parametrize("name", SHIPPED)
def test_the_mean_of_an_activation_map_and_the_bias_are_the_calibrated_logit(name, size):
    graph = build_feature_graph(open_shipped(SHIPPED[name]), size)
    weight, bias = linear_classifier(graph, 5)
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    (features,) = Graph(graph.model.SerializeToString(), 1).session.run([FEATURES], {INPUT: images})
    model = Graph(add_classifier(graph, weight, bias, 1.5).SerializeToString(), 1)
    _, maps = model.probabilities_and_activation_maps(images)
    assert maps.shape == (3, 5, -(-size // 32), -(-size // 32))
    np.testing.assert_allclose(maps.mean((2, 3)) + bias / 1.5, (features @ weight + bias) / 1.5, atol=1e-3)


def test_an_activation_map_is_zero_where_the_weighted_channel_is_zero():
    size = 128
    network = open_shipped(SHIPPED["efficientnet-lite0"])
    graph = build_feature_graph(network, size)
    images = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    last = graph.maps[-1]
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.graph.output.append(onnx.helper.make_tensor_value_info(last.name, onnx.TensorProto.FLOAT, None))
    (values,) = Graph(model.SerializeToString(), 1).session.run([last.name], {INPUT: images})
    weight = np.zeros((graph.dimensions, 2), np.float32)
    weight[graph.dimensions - EMBEDDING + 7, 1] = 3
    classifier = Graph(add_classifier(graph, weight, np.zeros(2, np.float32), 1.0).SerializeToString(), 1)
    _, maps = classifier.probabilities_and_activation_maps(images)
    np.testing.assert_allclose(maps[0, 1], 3 * values[0, 7], atol=1e-5)
    assert not maps[0, 0].any()


def test_the_embedding_is_the_mean_of_the_last_map():
    graph = build_feature_graph(open_shipped(SHIPPED["efficientnet-lite0"]), 64)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    (features,) = Graph(graph.model.SerializeToString(), 1).session.run([FEATURES], {INPUT: images})
    model = Graph(add_classifier(graph, *linear_classifier(graph, 5), 1.5).SerializeToString(), 1)
    _, embeddings = model.probabilities_and_embeddings(images)
    np.testing.assert_array_equal(embeddings, features[:, -EMBEDDING:])


@pytest.fixture(scope="module", params=["float32", "int8"])
def models(request):
    """A model with the temperature 1.5 (int8: 2.1), and the same one with probabilities as its only output."""
    size = 64
    graph = build_feature_graph(open_shipped(SHIPPED["efficientnet-lite0"]), size)
    arguments = (graph, *linear_classifier(graph, 5), 1.5)
    contents = [build(*arguments).SerializeToString() for build in (add_classifier, without_more_outputs)]
    if request.param == "int8":
        images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
        contents = [_scale_temperature(quantize_int8(each, ImageRows(images, np.arange(8))), 1.4) for each in contents]
    return contents


def test_more_outputs_leave_the_probabilities_as_they_are(models):
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    model, expected = Graph(models[0], 1), Graph(models[1], 1).probabilities(images)
    np.testing.assert_array_equal(model.probabilities(images), expected)
    np.testing.assert_array_equal(model.probabilities_and_embeddings(images)[0], expected)
    np.testing.assert_array_equal(model.probabilities_and_activation_maps(images)[0], expected)


def test_the_activation_map_is_computed_only_on_request(models, tmp_path):
    """In ONNX Runtime's profile: a prediction runs the same convolutions, and no product of a map with weights."""
    images = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    plain, full = (executed(content, images, tmp_path / name) for content, name in zip(models, "ab", strict=True))
    assert {kind: full.count(kind) for kind in set(full) if "Conv" in kind} == {
        kind: plain.count(kind) for kind in set(plain) if "Conv" in kind
    }
    assert "MatMul" not in full


def test_int8_convolutions_follow_each_other_without_a_conversion(models, tmp_path, request):
    """No ReLU6, no normalization and no change of scale is computed: only the pooled maps become float32."""
    if request.node.callspec.params["models"] == "float32":
        pytest.skip("int8 only")
    images = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    kinds = executed(models[1], images, tmp_path / "profile")
    assert kinds.count("QLinearConv") == 49
    assert not {"Conv", "Clip", "QuantizeLinear", "Cast", "Sub", "Mul"} & set(kinds)
    assert kinds.count("DequantizeLinear") <= 10


def test_pixels_are_normalized_by_one_node_exactly_as_in_training():
    graph = build_feature_graph(open_shipped(SHIPPED["efficientnet-lite0"]), 64).model
    graph.graph.output.append(onnx.helper.make_tensor_value_info("normalized", onnx.TensorProto.FLOAT, None))
    images = np.arange(64 * 64 * 3).reshape(1, 64, 64, 3).astype(np.uint8)
    (normalized,) = Graph(graph.SerializeToString(), 1).session.run(["normalized"], {INPUT: images})
    np.testing.assert_array_equal(normalized, (images.transpose(0, 3, 1, 2).astype(np.float32) - 127) / 128)


def executed(content, images, prefix):
    """The kinds of the nodes that a prediction executes."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix, options.log_severity_level = True, str(prefix), 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    session.run(["probabilities"], {INPUT: images})
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})]


def test_the_activation_map_is_that_of_the_logits_in_the_same_precision(models, request):
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    probabilities, maps = Graph(models[0], 1).probabilities_and_activation_maps(images)
    graph = build_feature_graph(open_shipped(SHIPPED["efficientnet-lite0"]), 64)
    temperature = {"float32": 1.5, "int8": 2.1}[request.node.callspec.params["models"]]
    logits = maps.mean((2, 3)) + linear_classifier(graph, 5)[1] / temperature
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
