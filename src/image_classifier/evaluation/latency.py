"""Latency of a model for single images, alone and relative to another model on the same machine."""

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from image_classifier.evaluation.intervals import Estimate, quantile_interval
from image_classifier.package import Images, Model
from image_classifier.process import available_cpus

_CALLS, _MIN_CALLS = 200, 20
_TIME_LIMIT_SECONDS = 3.0  # for each model; after it, the minimum number of calls is enough
_WARM_UP_CALLS = 10
_BOUND_SIGNIFICANCE = 0.025  # of each bound of a 95 % interval


@dataclass(frozen=True)
class Latency:
    """Latency of a single image in seconds, without decoding."""

    p50: float
    p95: float
    p95_interval: tuple[float, float]
    """95 % confidence interval of the 95th percentile."""


def measure_latency(model: Model, images: Images) -> Latency:
    """Time single images of uint8 [N, S, S, 3], after a warm-up."""
    seconds = np.sort(_time_calls([(model, images)])[:, 0])
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    return Latency(float(p50), float(p95), quantile_interval(seconds, 0.95, _BOUND_SIGNIFICANCE))


def latency_ratio(candidate: tuple[Model, Images], champion: tuple[Model, Images], significance: float) -> Estimate:
    """Median of the candidate's latency divided by the champion's, both timed alternately on this machine.

    Each bound of the interval is missed with probability `significance`. Other load affects both models alike.
    """
    seconds = _time_calls([candidate, champion])
    ratios = np.sort(seconds[:, 0] / seconds[:, 1])
    low, high = quantile_interval(ratios, 0.5, significance)
    return Estimate(float(np.median(ratios)), low, high)


def describe_machine() -> str:
    """Processor model and number of available CPUs of this machine, on which latencies depend."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {available_cpus()} CPUs"


def _time_calls(subjects: list[tuple[Model, Images]]) -> npt.NDArray[np.float64]:
    """Seconds of each call, float64 [calls, subjects]; every round calls each subject once."""
    rounds = []
    started = time.perf_counter()
    for number in range(-_WARM_UP_CALLS, _CALLS):
        seconds = [_time_call(*subject, number) for subject in subjects]
        if number >= 0:
            rounds.append(seconds)
        elapsed = time.perf_counter() - started
        if len(rounds) >= _MIN_CALLS and elapsed > _TIME_LIMIT_SECONDS * len(subjects):
            break
    return np.array(rounds)


def _time_call(model: Model, images: Images, number: int) -> float:
    index = number % len(images)
    image = np.asarray(images[index : index + 1])
    started = time.perf_counter()
    model.probabilities(image)
    return time.perf_counter() - started
