"""Feature extractors of one's own: real ONNX graphs, written node by node or by PyTorch's exporter."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from image_classifier.backbones import onnx_backbone
from image_classifier.backbones.feature_graph import FEATURES, add_classifier
from image_classifier.backbones.finding import read_backbone
from image_classifier.errors import TrainingError
from image_classifier.package.model import INPUT, Graph

MEAN, SCALE = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]
FACTS = {"mean": MEAN, "scale": SCALE, "license": "MIT", "trained_on": "ours"}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def write(
    folder: Path,
    *,
    shape=("N", 3, 32, 32),
    nodes=None,
    output=("N", 4, "h", "w"),
    facts=FACTS,
    opset: int = 18,
    kind: int = TensorProto.FLOAT,
    metadata: bool = False,
) -> Path:
    """A network whose nodes turn `x` into `y`: by default a 1 x 1 convolution from 3 to 4 channels."""
    weight = np.random.default_rng(1).normal(0, 1, (4, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        nodes or [helper.make_node("Conv", ["x", "w"], ["y"])],
        "own",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path = folder / "own.onnx"
    if metadata and facts:
        helper.set_model_props(model, {name: json.dumps(value) for name, value in facts.items()})
    elif facts is not None:
        (folder / "own.json").write_text(json.dumps(facts))
    onnx.save(model, path)
    return path


def features(path: Path, size: int = 32) -> np.ndarray:
    graph = read_backbone(path, "own.onnx").feature_graph(size)
    (values,) = Graph(graph.model.SerializeToString(), 1).session.run([FEATURES], {INPUT: IMAGES})
    assert values.shape == (3, graph.dimensions)
    return values


def expected_means() -> np.ndarray:
    weight = np.random.default_rng(1).normal(0, 1, (4, 3, 1, 1)).astype(np.float32)
    normalized = (IMAGES - np.array(MEAN)) / np.array(SCALE)
    return normalized.mean((1, 2)) @ weight[:, :, 0, 0].T


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18])
@pytest.mark.parametrize("metadata", [True, False])
def test_a_feature_map_is_pooled_and_images_are_prepared_as_stated(tmp_path, opset, metadata):
    path = write(tmp_path, opset=opset, metadata=metadata)
    np.testing.assert_allclose(features(path), expected_means(), atol=1e-4)


def test_channels_may_come_last(tmp_path):
    first = helper.make_node("Transpose", ["x"], ["p"], perm=[0, 3, 1, 2])
    convolution = helper.make_node("Conv", ["p", "w"], ["q"])
    last = helper.make_node("Transpose", ["q"], ["y"], perm=[0, 2, 3, 1])
    path = write(tmp_path, shape=("N", 32, 32, 3), nodes=[first, convolution, last], output=("N", "h", "w", 4))
    np.testing.assert_allclose(features(path), expected_means(), atol=1e-4)


def test_vectors_and_tokens_are_features_too(tmp_path):
    convolution = helper.make_node("Conv", ["x", "w"], ["m"])
    vector = [
        convolution,
        helper.make_node("GlobalAveragePool", ["m"], ["a"]),
        helper.make_node("Flatten", ["a"], ["y"]),
    ]
    np.testing.assert_allclose(features(write(tmp_path, nodes=vector, output=("N", 4))), expected_means(), atol=1e-4)
    shape = helper.make_node("Constant", [], ["s"], value_ints=[0, 4, -1])
    tokens = [
        convolution,
        shape,
        helper.make_node("Reshape", ["m", "s"], ["r"]),
        helper.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 1]),
    ]
    path = write(tmp_path, nodes=tokens, output=("N", "T", 4))
    np.testing.assert_allclose(features(path), expected_means(), atol=1e-4)


def test_a_network_with_dynamic_sides_takes_every_size(tmp_path):
    path = write(tmp_path, shape=("N", 3, "h", "w"), facts={**FACTS, "image_size": 48})
    backbone = read_backbone(path, "own.onnx")
    assert backbone.image_size == 48
    assert backbone.feature_graph(32).dimensions == 4


@pytest.mark.parametrize("opset", [11, 18])
def test_a_model_on_a_feature_map_returns_the_features_and_an_activation_map(tmp_path, opset):
    path = write(tmp_path, opset=opset)
    graph = read_backbone(path, "own.onnx").feature_graph(32)
    weight, bias = np.random.default_rng(2).normal(0, 1, (4, 3)).astype(np.float32), np.ones(3, np.float32)
    model = Graph(add_classifier(graph, weight, bias, 2.0).SerializeToString(), 1)
    _, embeddings = model.probabilities_and_embeddings(IMAGES)
    np.testing.assert_array_equal(embeddings, features(path))
    _, maps = model.probabilities_and_activation_maps(IMAGES)
    assert maps.shape == (3, 3, 32, 32)
    np.testing.assert_allclose(maps.mean((2, 3)), embeddings @ weight / 2, atol=1e-4)


@pytest.mark.parametrize("kind", ["vector", "tokens", "one cell"])
def test_a_model_without_a_map_returns_the_features_only(tmp_path, kind):
    convolution = helper.make_node("Conv", ["x", "w"], ["m"])
    shape = helper.make_node("Constant", [], ["s"], value_ints=[0, -1, 4])
    nodes, output = {
        "vector": ([helper.make_node("ReduceMean", ["m", "sides"], ["y"], keepdims=0)], ("N", 4)),
        "tokens": ([shape, helper.make_node("Reshape", ["m", "s"], ["y"])], ("N", "T", 4)),
        "one cell": ([helper.make_node("GlobalAveragePool", ["m"], ["y"])], ("N", 4, 1, 1)),
    }[kind]
    sides = helper.make_node("Constant", [], ["sides"], value_ints=[2, 3])
    path = write(tmp_path, nodes=[convolution, sides, *nodes], output=output)
    graph = read_backbone(path, "own.onnx").feature_graph(32)
    model = Graph(
        add_classifier(graph, np.eye(4, 3, dtype=np.float32), np.zeros(3, np.float32), 1).SerializeToString(), 1
    )
    assert [each.name for each in model.session.get_outputs()] == ["probabilities", "embedding"]
    np.testing.assert_array_equal(model.probabilities_and_embeddings(IMAGES)[1], features(path))


@pytest.mark.slow
def test_an_export_of_pytorch_can_be_trained_on(tmp_path):
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3, 2)
            )
            self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, images):
            tokens = self.layers(images).flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]

    path = tmp_path / "own.onnx"
    dynamic = {0: torch.export.Dim("N")}
    network = Small().eval()
    torch.onnx.export(
        network, (torch.zeros(2, 3, 32, 32),), path, dynamic_shapes=(dynamic,), dynamo=True, external_data=False
    )
    (tmp_path / "own.json").write_text(json.dumps({"mean": 127, "scale": 128}))
    graph = read_backbone(path, "own.onnx").feature_graph(32)
    with torch.inference_mode():
        pixels = (torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() - 127) / 128
        expected = network(pixels).mean(1).numpy()
    np.testing.assert_allclose(features(path), expected, atol=1e-4)
    model = add_classifier(graph, np.eye(16, 3, dtype=np.float32), np.zeros(3, np.float32), 1.0)
    np.testing.assert_allclose(Graph(model.SerializeToString(), 1).probabilities(IMAGES).sum(1), 1, atol=1e-5)


def test_the_records_name_the_file_its_license_and_data(tmp_path):
    backbone = read_backbone(write(tmp_path), "s3://bucket/own.onnx")
    assert backbone.provenance == {
        "name": "own",
        "origin": "s3://bucket/own.onnx",
        "license": "MIT",
        "digest": backbone.digest,
        "trained_on": "ours",
    }
    silent = read_backbone(write(tmp_path, facts={"mean": 0, "scale": 255}), "own.onnx")
    assert silent.provenance.keys() == {"name", "origin", "digest"}


WRONG = {
    "no preparation": ({"facts": None}, "does not say how images are prepared: mean is missing"),
    "scale of zero": ({"facts": {**FACTS, "scale": 0}}, "the scale of the backbone own.onnx is 0, but must be"),
    "two means": ({"facts": {**FACTS, "mean": [1, 2]}}, r"the mean of the backbone own.onnx is \[1, 2\]"),
    "mean as text": ({"facts": {**FACTS, "mean": "gray"}}, "the mean of the backbone own.onnx is 'gray'"),
    "list of facts": ({"facts": [1]}, "must hold an object"),
    "fixed batch": ({"shape": (1, 3, 32, 32), "output": (1, 4, 32, 32)}, "takes exactly 1 images at a time"),
    "gray images": ({"shape": ("N", 1, 32, 32), "facts": {**FACTS, "layout": "NCHW"}}, "of 1 channels in NCHW"),
    "hidden channels": ({"shape": ("N", "c", 32, 32)}, "does not say where the channels are"),
    "unknown layout": ({"facts": {**FACTS, "layout": "CHW"}}, "is 'CHW', but must be NCHW or NHWC"),
    "no size": ({"shape": ("N", 3, "h", "w")}, "image_size of the backbone own.onnx is 0, .*; state it"),
    "oblong": ({"shape": ("N", 3, 32, 64)}, "takes images of 64×32 pixels, not of 32×32"),
    "large": ({"shape": ("N", 3, 640, 640)}, "from 8 to 384"),
    "bytes as input": ({"kind": TensorProto.UINT8}, "is UINT8 with 4 dimensions, but must be FLOAT"),
    "old": ({"opset": 9}, "has ONNX opset 9; export it with opset 11 or newer"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused_in_words(tmp_path, change, message):
    with pytest.raises(TrainingError, match=message):
        read_backbone(write(tmp_path, **change), "own.onnx")


def test_a_network_that_cannot_run_is_refused_before_any_data(tmp_path):
    unknown = write(tmp_path, nodes=[helper.make_node("Magic", ["x"], ["y"])])
    with pytest.raises(TrainingError, match="the backbone own.onnx cannot be loaded"):
        read_backbone(unknown, "own.onnx").feature_graph(32)
    with pytest.raises(TrainingError, match=r"takes images of 32 pixels only, not of 64; leave out --image-size"):
        read_backbone(write(tmp_path), "own.onnx").feature_graph(64)
    infinite = [
        helper.make_node("Conv", ["x", "w"], ["m"]),
        helper.make_node("Sub", ["m", "m"], ["z"]),
        helper.make_node("Div", ["m", "z"], ["y"]),
    ]
    with pytest.raises(TrainingError, match="features that are not finite numbers"):
        read_backbone(write(tmp_path, nodes=infinite), "own.onnx").feature_graph(32)
    whole_batch = [
        helper.make_node("Conv", ["x", "w"], ["m"]),
        helper.make_node("ReduceSum", ["m"], ["s"], keepdims=1),
        helper.make_node("Add", ["m", "s"], ["y"]),
    ]
    with pytest.raises(TrainingError, match="depend on the other images of a batch; export it in evaluation mode"):
        read_backbone(write(tmp_path, nodes=whole_batch), "own.onnx").feature_graph(32)


def test_other_and_damaged_files_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path)
    content = path.read_bytes()
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02")
    with pytest.raises(TrainingError, match="neither an .onnx nor a .safetensors file; files that Python would"):
        read_backbone(tmp_path / "weights.pth", "weights.pth")
    with pytest.raises(TrainingError, match="no such file"):
        read_backbone(tmp_path / "other.onnx", "other.onnx")
    with pytest.raises(TrainingError, match="it is a folder"):
        read_backbone(tmp_path, "folder")
    for damaged, message in (
        (b"", "is empty"),
        (content[:-30], "not a"),
        (b"<html>" * 9, "not a"),
        (b"\x00" * 99, "not a"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(TrainingError, match=message):
            read_backbone(path, "own.onnx")
    (tmp_path / "own.json").write_text("{")
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="own.json beside the backbone own.onnx is not JSON"):
        read_backbone(path, "own.onnx")
    monkeypatch.setattr(onnx_backbone, "MAX_BYTES", len(content) - 1)
    with pytest.raises(TrainingError, match="the maximum is .* GiB, as every server loads it"):
        read_backbone(path, "own.onnx")


def test_weights_in_other_files_are_refused(tmp_path):
    path = write(tmp_path)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(TrainingError, match="keeps its weights in other files; export it with external_data=False"):
        read_backbone(path, "own.onnx")
