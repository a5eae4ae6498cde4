"""How long a model takes for one image, alone and beside another on the same machine."""

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from image_classifier.gate import Difference
from image_classifier.package import Images, Model
from image_classifier.process import available_cpus

_CALLS, _LEAST_CALLS = 200, 20
_SECONDS = 3.0
"""After so long fewer calls are enough, but not fewer than the least."""
_WARM_UP = 10
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Latency:
    """Seconds for one image, decoding apart."""

    p50: float
    p95: float
    p95_low: float
    """With `p95_high` the 95 % interval of the 95th percentile, by order statistics."""
    p95_high: float


def measure_latency(model: Model, images: Images) -> Latency:
    """Time single images of uint8 [N, S, S, 3], after a warm-up."""
    seconds = np.sort(_seconds([(model, images)])[:, 0])
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    low, high = _quantile_interval(seconds, 0.95, (1 - _CONFIDENCE) / 2)
    return Latency(float(p50), float(p95), low, high)


def latency_ratio(
    candidate: tuple[Model, Images], champion: tuple[Model, Images], significance: float
) -> Difference:
    """The median of how many times as long the candidate takes, both timed in turn on this machine.

    Each of the two bounds is missed with probability `significance` (order statistics of the median). What else
    the machine does falls on both alike.
    """
    seconds = _seconds([candidate, champion])
    ratios = np.sort(seconds[:, 0] / seconds[:, 1])
    low, high = _quantile_interval(ratios, 0.5, significance)
    return Difference(float(np.median(ratios)), low, high)


def machine() -> str:
    """The kind of machine this is, as far as it decides how long a model takes: processor and CPUs to use."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {available_cpus()} CPUs"


def _seconds(subjects: list[tuple[Model, Images]]) -> npt.NDArray[np.float64]:
    """Seconds of each call, float64 [calls, subjects]; in each round every subject has its turn."""
    rounds = []
    started = time.perf_counter()
    for number in range(-_WARM_UP, _CALLS):
        seconds = [_timed(*subject, number) for subject in subjects]
        if number >= 0:
            rounds.append(seconds)
        if len(rounds) >= _LEAST_CALLS and time.perf_counter() - started > _SECONDS * len(subjects):
            break
    return np.array(rounds)


def _timed(model: Model, images: Images, number: int) -> float:
    index = number % len(images)
    image = np.asarray(images[index : index + 1])
    started = time.perf_counter()
    model.probabilities(image)
    return time.perf_counter() - started


def _quantile_interval(
    ranked: npt.NDArray[np.float64], quantile: float, significance: float
) -> tuple[float, float]:
    """Bounds of a quantile from the ranks that it lies between but for `significance` on either side."""
    low, high = binom.ppf([significance, 1 - significance], len(ranked), quantile).astype(int)
    return float(ranked[max(low - 1, 0)]), float(ranked[min(high, len(ranked) - 1)])
