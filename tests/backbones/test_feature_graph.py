import numpy as np
import pytest
import torch

from image_classifier.backbones.efficientnet_lite import EMBEDDING
from image_classifier.backbones.feature_graph import FEATURES, add_classifier, build_feature_graph
from image_classifier.backbones.shipped import SHIPPED
from image_classifier.backbones.weights import open_shipped
from image_classifier.package.model import INPUT, Graph


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
        expected = [network.before(block, pixels).mean((2, 3)) for block in (8, 11, 15, 16)]
    np.testing.assert_allclose(features[:, :704], torch.cat(expected, 1).numpy(), atol=1e-3)


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
