"""How two models' answers to the same images differ, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import beta, binomtest, norm

_RESAMPLES = 2_000
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
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, [significance, 1 - significance])
    return Difference((gained - lost) / count, float(low), float(high))


def paired_difference(candidate: Answers, champion: Answers, significance: float) -> Difference:
    """The difference of the accuracies with the interval that belongs to McNemar's exact test.

    Of the images that only one model gets right, the share that the candidate loses has its exact interval
    (Clopper & Pearson 1934), each bound of which is missed with at most `significance`. So the upper bound is
    below 0 just where `chance_of_loss` is below `significance`.
    """
    gained, lost = _gained_and_lost(candidate, champion)
    if gained + lost == 0:
        return Difference(0.0, 0.0, 0.0)
    least = float(beta.ppf(significance, lost, gained + 1)) if lost else 0.0
    most = float(beta.ppf(1 - significance, lost + 1, gained)) if gained else 1.0
    share = (gained + lost) / len(candidate)
    return Difference((gained - lost) / len(candidate), (1 - 2 * most) * share, (1 - 2 * least) * share)


def score_difference(candidate: Answers, champion: Answers, significance: float) -> Difference:
    """The difference of the accuracies with its score interval for paired shares (Tango 1998).

    Each bound is missed with probability `significance`, also for a few dozen images and far from 0; the upper bound
    is below -`drop` just where `chance_of_drop` is below `significance`.
    """
    gained, lost = _gained_and_lost(candidate, champion)
    count, critical = len(candidate), float(norm.isf(significance))

    def bound(sign: int) -> float:
        def distance(difference: float) -> float:
            return _score(gained, lost, count, difference) - sign * critical

        # The score falls from one end of what is possible to the other, if it reaches the critical value at all.
        ends = -1 + 1e-9, 1 - 1e-9
        if distance(ends[0]) * distance(ends[1]) > 0:
            return float(-sign)
        return float(brentq(distance, *ends))

    return Difference((gained - lost) / count, bound(1), bound(-1))


def chance_of_drop(candidate: Answers, champion: Answers, drop: float) -> float:
    """How likely a model whose accuracy is `drop` below the champion's does no better; the score test (Tango 1998)."""
    return float(norm.cdf(_score(*_gained_and_lost(candidate, champion), len(candidate), -drop)))


def calibration_interval(deviations: Deviations, significance: float) -> tuple[float, float]:
    """The interval of the expected calibration error by the basic bootstrap (Davison & Hinkley 1997, 5.2).

    Not by percentiles: images that are drawn again add noise to each bin, which the error counts as its own.
    """
    value = float(_calibration_errors(deviations.mean(axis=0)))
    interval = _basic(value, _calibration_errors(_mean_deviations_drawn(deviations)), significance)
    return max(0.0, interval.low), interval.high


def calibration_difference(candidate: Deviations, champion: Deviations, significance: float) -> Difference:
    """The difference of the expected calibration errors with its paired interval by the basic bootstrap, as above."""
    bins = candidate.shape[1]
    drawn = _mean_deviations_drawn(np.concatenate([candidate, champion], axis=1))
    value = float(_calibration_errors(candidate.mean(axis=0)) - _calibration_errors(champion.mean(axis=0)))
    differences = _calibration_errors(drawn[:, :bins]) - _calibration_errors(drawn[:, bins:])
    return _basic(value, differences, significance)


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


def _score(gained: int, lost: int, count: int, difference: float) -> float:
    """How many standard errors the difference seen lies above `difference`, were that the true one."""
    linear = -gained - lost + (2 * count - gained + lost) * difference
    root = linear**2 + 8 * count * lost * difference * (1 - difference)
    # The likeliest share of images that are lost, if that were the difference.
    share = (math.sqrt(max(root, 0.0)) - linear) / (4 * count)
    variance = count * (2 * share + difference * (1 - difference))
    return (gained - lost - count * difference) / math.sqrt(variance) if variance > 0 else 0.0


def _mean_deviations_drawn(deviations: Deviations) -> Deviations:
    """The mean deviation of each bin when as many images are drawn again, 2,000 times; float64 [R, B].

    Images of the same bin and outcome count as equal, at their mean: it differs by a thirtieth at most between
    them, and by 1 between outcomes. So only how many are drawn of each kind matters.
    """
    kinds, kind = np.unique(np.sign(deviations).astype(np.int8), axis=0, return_inverse=True)
    counts = np.bincount(kind.ravel())
    means = np.zeros((len(kinds), deviations.shape[1]))
    np.add.at(means, kind.ravel(), deviations)
    means /= counts[:, np.newaxis]
    drawn = np.random.default_rng(_SEED).multinomial(len(deviations), counts / len(deviations), _RESAMPLES)
    mean_deviations: Deviations = drawn @ means / len(deviations)
    return mean_deviations


def _calibration_errors(mean_deviations: Deviations) -> npt.NDArray[np.float64]:
    """Expected calibration errors, [...], from the mean deviation of each bin over all images, [..., B]."""
    errors: npt.NDArray[np.float64] = np.abs(mean_deviations).sum(axis=-1)
    return errors


def _basic(value: float, drawn: npt.NDArray[np.float64], significance: float) -> Difference:
    low, high = 2 * value - np.quantile(drawn, [1 - significance, significance])
    # An error cannot be below 0, and so draws may all lie on one side of the figure itself.
    return Difference(value, min(float(low), value), max(float(high), value))
