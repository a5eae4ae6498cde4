"""An exported graph with 8-bit integers, and whether it is worth having.

Static quantisation by ONNX Runtime in its QDQ form: the input of each convolution becomes unsigned numbers of 8 bits,
with a scale that is found on calibration images, and its weights signed ones of 7 bits, with a scale for each output
channel. All else stays in 32-bit floats.

The weights have 7 bits so that the answers are the same on every x86-64. Where a processor has no VNNI instructions,
ONNX Runtime adds two products of 8 bits in a signed number of 16, which two of 255·127 overflow: those answers are
others than on the machine that trained, by hundredths. Two of 255·64 do not, all sums are exact, and so is what follows
up to the last convolution. (ONNX Runtime has a session option for that, session.x64quantprecision; but then 1.32 loads
no graph in which two convolutions share their weights, and any other server of the graph would have to know.)
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
MOST_ACCURACY_LOST = 0.002
LEAST_SPEED_UP = 1.1
_CALIBRATION_BATCH = 32
_TIMED_ROUNDS = 200
_TIMED_SECONDS = 4.0


class Chosen(NamedTuple):
    """The graph that is kept."""

    model: bytes
    probabilities: Probabilities
    """Its answers to the validation images, float32 [V, K]."""
    record: Mapping[str, Any]
    """What was measured of each graph, which one was chosen and why; for the package's provenance."""


class _Candidate:
    """A graph, loaded on one thread, and its answers to the validation images."""

    def __init__(self, model: bytes, images: Images, probabilities: Probabilities | None = None) -> None:
        self.model, self.graph = model, Graph(model, threads=1)
        self.probabilities = self.graph.probabilities(images) if probabilities is None else probabilities


def choose(
    precision: str,
    model: bytes,
    probabilities: Probabilities,
    calibration: Images,
    images: Images,
    labels: npt.NDArray[np.int64],
) -> Chosen:
    """Choose between a graph with float32, which gives `probabilities` to the validation `images`, and with int8.

    `precision` is one of them, or "auto": int8 is kept if it loses at most 0.2 points of accuracy on the validation
    images, uint8 [V, S, S, 3] with `labels` [V], and answers one image at least 1.1 times as fast on this machine.
    """
    candidates = {"float32": _Candidate(model, images, probabilities)}
    if precision != "float32":
        candidates["int8"] = _Candidate(quantized(model, calibration), images)
    accuracy = {
        name: float((each.probabilities.argmax(axis=1) == labels).mean()) for name, each in candidates.items()
    }
    taken = _timed([each.graph for each in candidates.values()], images[:1])
    seconds = dict(zip(candidates, taken, strict=True))
    chosen, reason = _judged(precision, accuracy, seconds)
    measured = {
        name: {
            "validation_accuracy": accuracy[name],
            "milliseconds": round(seconds[name] * 1e3, 6),
            "bytes": len(each.model),
        }
        for name, each in candidates.items()
    }
    kept = candidates[chosen]
    return Chosen(kept.model, kept.probabilities, {"chosen": chosen, **measured, "reason": reason})


def quantized(model: bytes, calibration: Images) -> bytes:
    """The graph with 8-bit convolutions; `calibration` is images uint8 [C, S, S, 3], a few hundred."""
    graph = onnx.load_from_string(model)
    properties = {item.key: item.value for item in graph.metadata_props}
    # Else it advises by a warning to fold constants first; the exporter has.
    add_pre_process_metadata(graph)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantize_static(
            graph,
            file,
            _Batches(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MaxPool"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        smaller = onnx.load(file)
    onnx.helper.set_model_props(smaller, properties)
    onnx.checker.check_model(smaller)
    content: bytes = smaller.SerializeToString()
    return content


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Gives ONNX Runtime the calibration images."""

    def __init__(self, images: Images) -> None:
        self._batches: Iterator[Images] = iter(
            [
                images[start : start + _CALIBRATION_BATCH]
                for start in range(0, len(images), _CALIBRATION_BATCH)
            ]
        )

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _timed(graphs: Sequence[Graph], image: Images) -> list[float]:
    """Median seconds of each graph for one image on one thread, asked in turn: what disturbs one disturbs all."""
    seconds: list[list[float]] = [[] for _ in graphs]
    end = perf_counter() + _TIMED_SECONDS
    for count in range(_TIMED_ROUNDS):
        for graph, taken in zip(graphs, seconds, strict=True):
            started = perf_counter()
            graph.probabilities(image)
            taken.append(perf_counter() - started)
        if count and perf_counter() > end:
            break
    return [median(taken) for taken in seconds]


def _judged(precision: str, accuracy: Mapping[str, float], seconds: Mapping[str, float]) -> tuple[str, str]:
    """Which one is kept, and why, in one sentence."""
    if precision != "auto":
        return precision, f"{precision} was asked for."
    lost = accuracy["float32"] - accuracy["int8"]
    speed_up = seconds["float32"] / seconds["int8"]
    measured = f"int8 answers one image {speed_up:.2f} times as fast here"
    if not lost <= MOST_ACCURACY_LOST:
        return "float32", (
            f"int8 loses {100 * lost:.2f} points of validation accuracy, more than {100 * MOST_ACCURACY_LOST:g}."
        )
    if not speed_up >= LEAST_SPEED_UP:
        return "float32", f"{measured}, and must be {LEAST_SPEED_UP:g} times as fast to be kept."
    gained = "loses" if lost > 0 else "gains"
    return "int8", f"{measured} and {gained} {100 * abs(lost):.2f} points of validation accuracy."
