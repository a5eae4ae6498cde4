"""Quantization of an exported graph to int8, and the choice between int8 and float32.

Static quantization by ONNX Runtime in QDQ format: the inputs of convolutions become unsigned 8-bit numbers, whose scale
is measured on calibration images; their weights become signed 8-bit numbers, with a scale for each output channel.

The scale of weights is such that every x86-64 processor returns the same probabilities. Without VNNI instructions ONNX
Runtime adds two neighboring 8-bit products in a signed 16-bit number. Two products of 255·127 overflow it, and the
probabilities differ from the training machine's, by up to 0.13 with EfficientNet-Lite0. So two neighboring weights of
the same sign add up to at most 128: 255·128 does not overflow it, and all sums are exact up to the last convolution.
Weights of 7 bits do not overflow it either, but the logits of EfficientNet-Lite0 then differ twice as much from
float32. (ONNX Runtime has the session option session.x64quantprecision for this; but with it, version 1.32 cannot load
a graph in which two convolutions share their weights, and every other server of the graph would have to set it.)
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from image_classifier.package import (
    ACTIVATION_MAP_OUTPUT,
    ACTIVATION_MAP_SWITCH,
    INPUT,
    OUTPUT,
    Graph,
    Images,
    Probabilities,
    batch_images,
    quantile_interval,
    time_in_turn,
)
from image_classifier.training.plan import Indices
from image_classifier.training.trained import fit_temperature

MIN_CALIBRATION_IMAGES, MAX_CALIBRATION_IMAGES, CALIBRATION_PIXELS = 128, 512, 2**23

_MAX_ACCURACY_LOSS = 0.005
_MIN_SPEED_UP = 1.1
_NORMAL_QUANTILE = 1.96  # of a 95 % interval
_BOUND_SIGNIFICANCE = 0.025  # of each bound of a 95 % interval
_CALIBRATION_BATCH_IMAGES = 32
_BATCH_IMAGES, _BATCH_PIXELS = 256, 2**20

Interval = tuple[float, float, float]
"""A value and the bounds of its 95 % confidence interval."""


@dataclass(frozen=True)
class ImageRows:
    """Some rows of an array of images, which may be memory-mapped; only one batch of them is in memory at a time."""

    images: Images
    """uint8 [N, S, S, 3]"""
    rows: Indices

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, count: int) -> "ImageRows":
        """The first images, at most `count`."""
        return ImageRows(self.images, self.rows[:count])

    def batches(self, size: int = _BATCH_IMAGES) -> Iterator[Images]:
        """Yield the images in batches, uint8 [B, S, S, 3]; B is at most `size` and less for large images."""
        size = min(size, max(1, _BATCH_PIXELS // self.images.shape[1] ** 2))
        for start in range(0, len(self), size):
            yield self.images[self.rows[start : start + size]]


def predict(graph: Graph, images: ImageRows) -> Probabilities:
    """Probabilities float32 [N, K] of the images."""
    return np.concatenate([graph.probabilities(batch) for batch in images.batches()])


class PrecisionChoice(NamedTuple):
    """The chosen graph."""

    model: bytes
    probabilities: Probabilities
    """Its probabilities for the validation images, float32 [V, K]."""
    record: Mapping[str, Any]
    """The measurements of each graph, the chosen one and the reason; for the provenance of the package."""


@dataclass(frozen=True)
class _Candidate:
    """A graph, its temperature and its probabilities for the validation images."""

    model: bytes
    temperature: float
    probabilities: Probabilities


def choose_precision(
    precision: str,
    model: bytes,
    temperature: float,
    probabilities: Probabilities,
    calibration: ImageRows,
    images: ImageRows,
    labels: npt.NDArray[np.int64],
) -> PrecisionChoice:
    """Choose between the float32 graph `model` and its int8 version.

    `precision` is "float32", "int8" or "auto". auto chooses int8 only if the validation `images`, with `labels` int64
    [V], are evidence that it loses less than 0.5 points of accuracy, the gate's default limit, and if it predicts a
    single image at least 1.1 times as fast on this machine: both by the bound of a 95 % confidence interval.
    `probabilities`, float32 [V, K], are those of `model`, whose calibrated `temperature` is not right for int8: that
    graph gets another one.
    """
    candidates = {"float32": _Candidate(model, temperature, probabilities)}
    if precision != "float32":
        candidates["int8"] = _int8_candidate(model, temperature, calibration, images, labels)
    correct = {name: each.probabilities.argmax(axis=1) == labels for name, each in candidates.items()}
    graphs = [Graph(candidate.model, threads=1) for candidate in candidates.values()]
    image = next(images.batches(1))
    seconds = time_in_turn([(graph.probabilities, image) for graph in graphs])
    record: dict[str, Any] = {
        name: {
            "validation_accuracy": float(correct[name].mean()),
            "milliseconds": round(float(np.median(seconds[:, number])) * 1e3, 6),
            "bytes": len(candidate.model),
            "temperature": candidate.temperature,
        }
        for number, (name, candidate) in enumerate(candidates.items())
    }
    if "int8" in candidates:
        record["accuracy_loss"] = accuracy_loss(correct["float32"], correct["int8"])
        record["speed_up"] = _median_interval(seconds[:, 0] / seconds[:, 1])
    chosen, reason = _decide(precision, record)
    winner = candidates[chosen]
    return PrecisionChoice(winner.model, winner.probabilities, {"chosen": chosen, **record, "reason": reason})


def _int8_candidate(
    model: bytes, temperature: float, calibration: ImageRows, images: ImageRows, labels: npt.NDArray[np.int64]
) -> _Candidate:
    """The int8 graph, with the temperature that fits its probabilities for the validation images."""
    quantized = quantize_int8(model, calibration)
    # The logarithms are the logits, divided by the temperature, minus a constant of each image.
    logits = np.log(np.maximum(predict(Graph(quantized, threads=1), images), np.finfo(np.float32).tiny))
    factor = fit_temperature(torch.from_numpy(logits), torch.from_numpy(labels))
    scaled = torch.from_numpy(logits / factor).softmax(1).numpy()
    return _Candidate(_scale_temperature(quantized, factor), temperature * factor, scaled)


def _scale_temperature(model: bytes, factor: float) -> bytes:
    """The graph with another temperature: its logits and activation maps are also divided by `factor`."""
    content = onnx.load_from_string(model)
    (position,) = [number for number, node in enumerate(content.graph.node) if OUTPUT in node.output]
    softmax = content.graph.node[position]
    divide = onnx.helper.make_node("Div", [softmax.input[0], "int8_temperature"], ["int8_logits"])
    softmax.input[0] = "int8_logits"
    content.graph.node.insert(position, divide)
    for node in [node for node in content.graph.node if ACTIVATION_MAP_OUTPUT in node.output]:
        node.output[0] = "unscaled_activation_map"
        inputs = [node.output[0], "int8_temperature"]
        content.graph.node.append(onnx.helper.make_node("Div", inputs, [ACTIVATION_MAP_OUTPUT]))
    content.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "int8_temperature"))
    onnx.checker.check_model(content)
    return bytes(content.SerializeToString())


def quantize_int8(model: bytes, calibration: ImageRows) -> bytes:
    """Quantize the convolutions of a graph; `calibration` is a few hundred images."""
    graph = onnx.load_from_string(model)
    properties = {item.key: item.value for item in graph.metadata_props}
    activation_map = _remove_activation_map(graph.graph)
    # Without it ONNX Runtime warns that constants should be folded first, which the exporter has done.
    add_pre_process_metadata(graph)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantize_static(
            graph,
            file,
            _CalibrationBatches(calibration),
            quant_format=QuantFormat.QDQ,
            # A Clip, such as ReLU6, becomes the range of its convolution's output; else one more conversion follows.
            op_types_to_quantize=["Conv", "MaxPool", "Clip"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"TensorQuantOverrides": _weight_ranges(graph.graph)},
        )
        quantized = onnx.load(file)
    quantized.graph.MergeFrom(activation_map)
    onnx.helper.set_model_props(quantized, properties)
    onnx.checker.check_model(quantized)
    content: bytes = quantized.SerializeToString()
    return content


def _weight_ranges(graph: onnx.GraphProto) -> dict[str, list[dict[str, Any]]]:
    """For the weights of each convolution, the range of each output channel, as quantize_static expects them.

    The range is the largest sum of two neighbors of the same sign. ONNX Runtime orders weights by row, column and input
    channel. Rounding adds at most one to the sum of two weights, of which the range is 127.
    """
    weights = {item.name: item for item in graph.initializer}
    ranges = {}
    for name in {node.input[1] for node in graph.node if node.op_type == "Conv"} & weights.keys():
        values = numpy_helper.to_array(weights[name]).astype(np.float32)
        rows = np.moveaxis(values, 1, -1).reshape(len(values), -1)
        pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(values), -1, 2)
        sums = np.maximum(np.maximum(pairs, 0).sum(2), np.maximum(-pairs, 0).sum(2))
        ranges[name] = [
            {"quant_type": QuantType.QInt8, "axis": 0, "rmin": -limit, "rmax": limit, "symmetric": True}
            for limit in sums.max(1)
        ]
    return ranges


def _remove_activation_map(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Remove and return what computes the activation map: quantize_static would sort its node before its inputs."""
    removed = onnx.GraphProto()
    for name, parts, others in (
        (ACTIVATION_MAP_OUTPUT, graph.output, removed.output),
        (ACTIVATION_MAP_OUTPUT, graph.node, removed.node),
        (ACTIVATION_MAP_SWITCH, graph.input, removed.input),
        (ACTIVATION_MAP_SWITCH, graph.initializer, removed.initializer),
    ):
        for part in [part for part in parts if part.name == name]:
            others.append(part)
            parts.remove(part)
    return removed


class _CalibrationBatches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: ImageRows) -> None:
        size = min(_CALIBRATION_BATCH_IMAGES, batch_images(images.images.shape[1]))
        self._batches = images.batches(size)

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def accuracy_loss(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> Interval:
    """How much accuracy is lost, with its 95 % interval, from whether each prediction, bool [N], is correct.

    The adjusted Wald interval for paired proportions (Bonett & Price 2012, doi:10.3102/1076998611411915), which counts
    one more image on either side. So even without any difference it is wider than 0.5 points below 553 images.
    """
    lost, won, total = int((before & ~after).sum()), int((after & ~before).sum()), len(before) + 2
    shares = (lost + 1) / total, (won + 1) / total
    middle = shares[0] - shares[1]
    width = _NORMAL_QUANTILE * math.sqrt((sum(shares) - middle**2) / total)
    return (lost - won) / len(before), middle - width, middle + width


def _median_interval(values: npt.NDArray[np.float64]) -> Interval:
    ordered = np.sort(values)
    return float(np.median(ordered)), *quantile_interval(ordered, 0.5, _BOUND_SIGNIFICANCE)


def _decide(precision: str, record: Mapping[str, Any]) -> tuple[str, str]:
    """The chosen precision, and the reason as a sentence."""
    if precision != "auto":
        return precision, f"{precision} was requested."
    (lost, _, most), (speed_up, least, _) = record["accuracy_loss"], record["speed_up"]
    verb = "gains" if lost < 0 else "loses"
    accuracy = f"{verb} {100 * abs(lost):.2f} points of validation accuracy"
    if not most <= _MAX_ACCURACY_LOSS:
        return "float32", (
            f"int8 {accuracy}, but could lose {100 * most:.2f} (95 % confidence); the limit is "
            f"{100 * _MAX_ACCURACY_LOSS:g}."
        )
    measured = f"int8 predicts one image {speed_up:.2f} times as fast on the training machine"
    if not least >= _MIN_SPEED_UP:
        return "float32", f"{measured} (at least {least:.2f} times); the minimum is {_MIN_SPEED_UP:g} times."
    return "int8", f"{measured} and {accuracy}, at most {100 * most:.2f} (95 % confidence)."
