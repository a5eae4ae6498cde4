"""How two models' answers to the same images differ, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

_RESAMPLES = 2_000
_CALIBRATION_RESAMPLES = 500
_RESAMPLES_AT_ONCE = 50
_SEED = 0

Answers = npt.NDArray[np.bool_]
"""Whether each answer was right; bool [N]."""
Deviations = npt.NDArray[np.float64]
"""By image and confidence bin: the confidence less 1 for a right answer and 0 for a wrong one; float64 [N, B]."""


@dataclass(frozen=True)
class Difference:
    """The candidate's figure less the champion's, with an interval."""

    value: float
    low: float
    high: float


def accuracy_difference(candidate: Answers, champion: Answers, significance: float) -> Difference:
    """The difference of the accuracies with its paired bootstrap interval (percentiles; Efron 1979).

    Each of the two bounds is missed with probability `significance`. To draw images again is to draw how many of
    them one model alone gets right, from a multinomial distribution, so that no image need be touched.
    """
    count = len(candidate)
    gained, lost = _gained_and_lost(candidate, champion)
    shares = [gained / count, lost / count, 1 - (gained + lost) / count]
    drawn = np.random.default_rng(_SEED).multinomial(count, shares, size=_RESAMPLES)
    return _difference((gained - lost) / count, (drawn[:, 0] - drawn[:, 1]) / count, significance)


def calibration_difference(candidate: Deviations, champion: Deviations, significance: float) -> Difference:
    """The difference of the expected calibration errors with its paired bootstrap interval, as above."""
    count = len(candidate)
    random = np.random.default_rng(_SEED)
    drawn = []
    for _ in range(_CALIBRATION_RESAMPLES // _RESAMPLES_AT_ONCE):
        # How often an image is drawn follows, but for the fixed total, a Poisson distribution.
        times = random.poisson(1.0, size=(_RESAMPLES_AT_ONCE, count)).astype(np.float64)
        totals = times.sum(axis=1)
        drawn.append(
            _calibration_errors(times @ candidate, totals) - _calibration_errors(times @ champion, totals)
        )
    sums = (candidate.sum(axis=0), champion.sum(axis=0))
    value = _calibration_errors(sums[0], count) - _calibration_errors(sums[1], count)
    return _difference(float(value), np.concatenate(drawn), significance)


def chance_of_loss(candidate: Answers, champion: Answers) -> float:
    """McNemar's exact test, one-sided: how likely a model no worse than the champion loses as many images net."""
    gained, lost = _gained_and_lost(candidate, champion)
    if gained + lost == 0:
        return 1.0
    return float(binomtest(lost, lost + gained, alternative="greater").pvalue)


def adjusted_for_many(chances: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): below a level, all of them together are wrong no more often than it."""
    adjusted = [0.0] * len(chances)
    highest = 0.0
    for rank, index in enumerate(np.argsort(chances)):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = highest
    return adjusted


def _gained_and_lost(candidate: Answers, champion: Answers) -> tuple[int, int]:
    return int(np.sum(candidate & ~champion)), int(np.sum(~candidate & champion))


def _calibration_errors(sums: npt.NDArray[np.float64], counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Expected calibration errors from the sums of the deviations in each bin, [..., B], of so many images."""
    errors: npt.NDArray[np.float64] = np.abs(sums).sum(axis=-1) / counts
    return errors


def _difference(value: float, drawn: npt.NDArray[np.float64], significance: float) -> Difference:
    low, high = np.quantile(drawn, [significance, 1 - significance])
    return Difference(value, float(low), float(high))
