"""Latencies of several models, measured in turn, and confidence intervals of their quantiles."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from image_classifier.package.package import Images

Predict = Callable[[Images], object]

_CALLS, _MIN_CALLS = 200, 20
_TIME_LIMIT_SECONDS = 3.0  # for each model; after it, the minimum number of calls is enough
_WARM_UP_CALLS = 10


def time_in_turn(models: Sequence[tuple[Predict, Images]], calls: int = _CALLS) -> npt.NDArray[np.float64]:
    """Seconds of each model for a single image, float64 [rounds, models], after a warm-up.

    `models` are functions of images uint8 [1, S, S, 3], and the images uint8 [N, S, S, 3] that each is given one by
    one, `calls` times at most. Every round times each of them once, so other load on the machine affects all alike.
    """
    rounds = []
    started = time.perf_counter()
    for number in range(-_WARM_UP_CALLS, calls):
        seconds = [_time(predict, images, number) for predict, images in models]
        if number >= 0:
            rounds.append(seconds)
        elapsed = time.perf_counter() - started
        if len(rounds) >= _MIN_CALLS and elapsed > _TIME_LIMIT_SECONDS * len(models):
            break
    return np.array(rounds)


def quantile_interval(values: npt.NDArray[np.float64], quantile: float, significance: float) -> tuple[float, float]:
    """Confidence interval of a quantile by order statistics; each bound is missed with probability `significance`.

    `values`, float64 [N], must be sorted. A bound beyond the smallest or largest value is that value.
    """
    low, high = binom.ppf([significance, 1 - significance], len(values), quantile).astype(int)
    return float(values[max(low - 1, 0)]), float(values[min(high, len(values) - 1)])


def _time(predict: Predict, images: Images, number: int) -> float:
    index = number % len(images)
    image = np.asarray(images[index : index + 1])
    started = time.perf_counter()
    predict(image)
    return time.perf_counter() - started
