"""ONNX graphs of backbones: from pixels to features, and with a classifier on top to probabilities."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from image_classifier.backbones.efficientnet_lite import EMBEDDING, Block, EfficientNetLite, SameConvolution
from image_classifier.package import INPUT, OUTPUT

FEATURES = "features"

_OPSET, _IR_VERSION = 18, 10
_MEAN, _SCALE = 127.0, 128.0
"""Pixels are normalized to (x - 127) / 128, as in the training of the weights."""
_POOLED_STAGES = 4
"""Feature maps before the last one whose means are features, too: 1 to 1.5 points more accurate on photos of clothes
(five-fold cross-validation) than the means of the last map alone, in the same time."""


@dataclass(frozen=True)
class FeatureGraph:
    """A graph from images, uint8 [N, S, S, 3], to features, float32 [N, D]."""

    model: onnx.ModelProto
    image_size: int
    dimensions: int
    """D."""


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def convolution(self, name: str, layer: SameConvolution, source: str, side: int, *, clip: bool) -> tuple[str, int]:
        """Add a convolution, and a ReLU6 with `clip`; returns its output and the side of the feature map."""
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        assert layer.bias is not None
        weight = self.constant(f"{name}.weight", layer.weight.detach().numpy())
        bias = self.constant(f"{name}.bias", layer.bias.detach().numpy())
        before, after = layer.padding_of(side)
        output = self.node(
            "Conv",
            [source, weight, bias],
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=layer.groups,
        )
        if clip:
            output = self.node("Clip", [output, "zero", "six"], f"{name}.relu6")
        return output, -(-side // stride)


def build_feature_graph(network: EfficientNetLite, image_size: int) -> FeatureGraph:
    """The graph of a network for images of `image_size` pixels, with normalization and pooling.

    The features are the means over the last feature map and over the last maps of the four stages before it.
    """
    build = _Builder()
    build.constant("zero", np.array(0, np.float32))
    build.constant("six", np.array(6, np.float32))
    build.constant("mean", np.array(_MEAN, np.float32))
    build.constant("scale", np.array(1 / _SCALE, np.float32))
    build.constant("sides", np.array([2, 3], np.int64))
    build.node("Transpose", [INPUT], "planes", perm=[0, 3, 1, 2])
    build.node("Cast", ["planes"], "pixels", to=TensorProto.FLOAT)
    build.node("Sub", ["pixels", "mean"], "centered")
    build.node("Mul", ["centered", "scale"], "normalized")
    current, side = build.convolution("stem", network.conv_stem, "normalized", image_size, clip=True)
    channels = network.conv_stem.out_channels
    stages: list[tuple[str, int]] = []
    for number, block in enumerate(network.blocks):
        assert isinstance(block, Block)
        outputs = block.project_conv.out_channels
        if outputs != channels:
            stages.append((current, channels))
        entered, prefix = current, f"blocks.{number}"
        if block.expand_conv is not None:
            current, side = build.convolution(f"{prefix}.expand", block.expand_conv, current, side, clip=True)
        current, side = build.convolution(f"{prefix}.depthwise", block.depthwise_conv, current, side, clip=True)
        current, side = build.convolution(f"{prefix}.project", block.project_conv, current, side, clip=False)
        if block.has_shortcut:
            current = build.node("Add", [current, entered], f"{prefix}.sum")
        channels = outputs
    stages.append((current, channels))
    last, _ = build.convolution("head", network.conv_head, current, side, clip=True)
    pooled = [*stages[-_POOLED_STAGES:], (last, EMBEDDING)]
    means = [build.node("ReduceMean", [name, "sides"], f"{name}.mean", keepdims=0) for name, _ in pooled]
    build.node("Concat", means, FEATURES, axis=1)
    dimensions = sum(count for _, count in pooled)
    graph = helper.make_graph(
        build.nodes,
        "features",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", image_size, image_size, 3])],
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", dimensions])],
        build.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return FeatureGraph(model, image_size, dimensions)


def add_classifier(
    features: FeatureGraph, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], temperature: float
) -> onnx.ModelProto:
    """The graph with a linear classifier: its output are probabilities, float32 [N, K].

    `weight` is [D, K] and `bias` [K]; `temperature` divides the logits.
    """
    model = onnx.ModelProto()
    model.CopyFrom(features.model)
    build = _Builder()
    build.constant("classifier.weight", weight.astype(np.float32))
    build.constant("classifier.bias", bias.astype(np.float32))
    build.constant("temperature", np.array(temperature, np.float32))
    build.node("Gemm", [FEATURES, "classifier.weight", "classifier.bias"], "logits")
    build.node("Div", ["logits", "temperature"], "scaled_logits")
    build.node("Softmax", ["scaled_logits"], OUTPUT, axis=1)
    model.graph.node.extend(build.nodes)
    model.graph.initializer.extend(build.initializers)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", len(bias)]))
    model.graph.name = "classifier"
    onnx.checker.check_model(model)
    return model
