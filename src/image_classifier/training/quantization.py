"""Quantization of an exported graph to int8, and the choice between int8 and float32.

Static quantization by ONNX Runtime in QDQ format: the inputs of convolutions become unsigned 8-bit numbers, whose scale
is measured on calibration images; their weights become signed 7-bit numbers, with a scale for each output channel.

Weights have 7 bits so that every x86-64 processor returns the same probabilities. Without VNNI instructions ONNX
Runtime adds two 8-bit products in a signed 16-bit number. Two products of 255·127 overflow it, and the probabilities
differ by about 0.01 from the training machine's. Two products of 255·64 do not, so all sums are exact up to the last
convolution. (ONNX Runtime has the session option session.x64quantprecision for this; but with it, version 1.32 cannot
load a graph in which two convolutions share their weights, and every other server of the graph would have to set it.)
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from image_classifier.package import INPUT, Graph, Images, Probabilities

CALIBRATION_IMAGES = 512

_MAX_ACCURACY_LOSS = 0.002
_MIN_SPEED_UP = 1.1
_CALIBRATION_BATCH_IMAGES = 32
_TIMED_ROUNDS = 200
_MAX_TIMED_SECONDS = 4.0


class PrecisionChoice(NamedTuple):
    """The chosen graph."""

    model: bytes
    probabilities: Probabilities
    """Its probabilities for the validation images, float32 [V, K]."""
    record: Mapping[str, Any]
    """The measurements of each graph, the chosen one and the reason; for the provenance of the package."""


class _Candidate:
    """A graph, loaded on one thread, and its probabilities for the validation images."""

    def __init__(self, model: bytes, images: Images, probabilities: Probabilities | None = None) -> None:
        self.model, self.graph = model, Graph(model, threads=1)
        self.probabilities = self.graph.probabilities(images) if probabilities is None else probabilities


def choose_precision(
    precision: str,
    model: bytes,
    probabilities: Probabilities,
    calibration: Images,
    images: Images,
    labels: npt.NDArray[np.int64],
) -> PrecisionChoice:
    """Choose between the float32 graph `model` and its int8 version.

    `precision` is "float32", "int8" or "auto": int8 if it loses at most 0.2 points of accuracy on the validation
    `images`, uint8 [V, S, S, 3] with `labels` [V], and predicts a single image at least 1.1 times as fast on this
    machine. `probabilities`, float32 [V, K], are those of `model`.
    """
    candidates = {"float32": _Candidate(model, images, probabilities)}
    if precision != "float32":
        candidates["int8"] = _Candidate(quantize_int8(model, calibration), images)
    accuracy = {name: float((each.probabilities.argmax(axis=1) == labels).mean()) for name, each in candidates.items()}
    latencies = _median_latencies([candidate.graph for candidate in candidates.values()], images[:1])
    seconds = dict(zip(candidates, latencies, strict=True))
    chosen, reason = _decide(precision, accuracy, seconds)
    measurements = {
        name: {
            "validation_accuracy": accuracy[name],
            "milliseconds": round(seconds[name] * 1e3, 6),
            "bytes": len(candidate.model),
        }
        for name, candidate in candidates.items()
    }
    winner = candidates[chosen]
    return PrecisionChoice(winner.model, winner.probabilities, {"chosen": chosen, **measurements, "reason": reason})


def quantize_int8(model: bytes, calibration: Images) -> bytes:
    """Quantize the convolutions of a graph; `calibration` is a few hundred images, uint8 [C, S, S, 3]."""
    graph = onnx.load_from_string(model)
    properties = {item.key: item.value for item in graph.metadata_props}
    # Without it ONNX Runtime warns that constants should be folded first, which the exporter has done.
    add_pre_process_metadata(graph)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantize_static(
            graph,
            file,
            _CalibrationBatches(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MaxPool"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantized = onnx.load(file)
    onnx.helper.set_model_props(quantized, properties)
    onnx.checker.check_model(quantized)
    content: bytes = quantized.SerializeToString()
    return content


class _CalibrationBatches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Images) -> None:
        starts = range(0, len(images), _CALIBRATION_BATCH_IMAGES)
        self._batches: Iterator[Images] = (images[start : start + _CALIBRATION_BATCH_IMAGES] for start in starts)

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _median_latencies(graphs: Sequence[Graph], image: Images) -> list[float]:
    """Median seconds of each graph for one image on one thread, interleaved, so that other load slows all of them."""
    seconds: list[list[float]] = [[] for _ in graphs]
    end = perf_counter() + _MAX_TIMED_SECONDS
    for count in range(_TIMED_ROUNDS):
        for graph, latencies in zip(graphs, seconds, strict=True):
            started = perf_counter()
            graph.probabilities(image)
            latencies.append(perf_counter() - started)
        if count and perf_counter() > end:
            break
    return [median(latencies) for latencies in seconds]


def _decide(precision: str, accuracy: Mapping[str, float], seconds: Mapping[str, float]) -> tuple[str, str]:
    """The chosen precision, and the reason as a sentence."""
    if precision != "auto":
        return precision, f"{precision} was requested."
    lost = accuracy["float32"] - accuracy["int8"]
    speed_up = seconds["float32"] / seconds["int8"]
    if not lost <= _MAX_ACCURACY_LOSS:
        limit = f"{100 * _MAX_ACCURACY_LOSS:g}"
        return "float32", f"int8 loses {100 * lost:.2f} points of validation accuracy; the limit is {limit}."
    measured = f"int8 predicts one image {speed_up:.2f} times as fast on the training machine"
    if not speed_up >= _MIN_SPEED_UP:
        return "float32", f"{measured}; the minimum is {_MIN_SPEED_UP:g} times."
    verb = "loses" if lost > 0 else "gains"
    return "int8", f"{measured} and {verb} {100 * abs(lost):.2f} points of validation accuracy."
