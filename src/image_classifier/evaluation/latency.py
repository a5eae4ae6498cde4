"""Latency of a model for single images, alone and relative to another model on the same machine."""

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_classifier.evaluation.intervals import Estimate
from image_classifier.package import Images, Model, quantile_interval, time_in_turn
from image_classifier.process import available_cpus

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
    seconds = np.sort(time_in_turn([(model.probabilities, images)])[:, 0])
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    return Latency(float(p50), float(p95), quantile_interval(seconds, 0.95, _BOUND_SIGNIFICANCE))


def latency_ratio(candidate: tuple[Model, Images], champion: tuple[Model, Images], significance: float) -> Estimate:
    """Median of the candidate's latency divided by the champion's, both timed alternately on this machine.

    Each bound of the interval is missed with probability `significance`. Other load affects both models alike.
    """
    seconds = time_in_turn([(model.probabilities, images) for model, images in (candidate, champion)])
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
