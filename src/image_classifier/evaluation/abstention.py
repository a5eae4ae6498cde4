"""From which confidence on answers are right often enough, so that a caller may leave the others to a person."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Abstention:
    """A threshold that was chosen on validation images for an error rate; what it gives is seen on the test."""

    error: float
    """The share of wrong answers that was aimed at."""
    threshold: float | None
    """The lowest confidence of answers that are given; None: no threshold reaches that error."""
    images: int
    """How many validation images chose it."""


def choose_threshold(
    confidences: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], error: float
) -> Abstention:
    """The threshold that gives the most answers of which at most the share `error` is wrong (float [N], bool [N]).

    Selective classification by confidence (Geifman & El-Yaniv 2017, arXiv:1705.08500), without their guarantee:
    the error of new images may be above what was aimed at, and the more so the fewer images chose the threshold.
    """
    order = np.argsort(-confidences, kind="stable")
    ranked = confidences[order]
    wrong = np.cumsum(~right[order]) / np.arange(1, len(ranked) + 1)
    # Images of equal confidence are answered together or not at all.
    last_of_equals = np.append(ranked[1:] != ranked[:-1], True)
    reached = np.flatnonzero((wrong <= error) & last_of_equals)
    threshold = float(ranked[reached[-1]]) if len(reached) else None
    return Abstention(error, threshold, len(ranked))
