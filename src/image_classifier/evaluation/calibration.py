"""Calibration: how well confidences match accuracy, and the confidence threshold below which to abstain."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BINS = 15

Confidences = npt.NDArray[np.float64]
"""float64 [N], the probability of each predicted class."""
Correct = npt.NDArray[np.bool_]
"""bool [N], whether each prediction is correct."""


@dataclass(frozen=True)
class Abstention:
    """A confidence threshold, chosen on validation images for a target error rate."""

    error: float
    """Target: the share of wrong predictions among those at or above the threshold."""
    threshold: float | None
    """Smallest confidence at which a prediction is used; None if no threshold reaches the target."""
    images: int
    """Number of validation images."""


def choose_threshold(confidences: Confidences, correct: Correct, error: float) -> Abstention:
    """Choose the threshold with the highest coverage whose error rate is at most `error`.

    Selective classification by confidence (Geifman & El-Yaniv 2017, arXiv:1705.08500), without their guarantee:
    the error rate on new images may exceed the target, and does so more with fewer validation images.
    """
    order = np.argsort(-confidences, kind="stable")
    ranked = confidences[order]
    errors = np.cumsum(~correct[order]) / np.arange(1, len(ranked) + 1)
    # Images of equal confidence are either all above the threshold or all below it.
    last_of_equals = np.append(ranked[1:] != ranked[:-1], True)
    reached = np.flatnonzero((errors <= error) & last_of_equals)
    return Abstention(error, float(ranked[reached[-1]]) if len(reached) else None, len(ranked))


def reliability_bins(confidences: Confidences, correct: Correct) -> list[tuple[int, float, float]]:
    """Number of images, mean confidence and accuracy of each of 15 equal-width bins that is not empty."""
    bins = _bin_of(confidences)
    return [
        (int((bins == number).sum()), float(confidences[bins == number].mean()), float(correct[bins == number].mean()))
        for number in np.unique(bins)
    ]


def calibration_error(confidences: Confidences, correct: Correct) -> float:
    """Expected calibration error over 15 equal-width bins (Guo et al. 2017, arXiv:1706.04599)."""
    bins = reliability_bins(confidences, correct)
    return sum(count * abs(confidence - accuracy) for count, confidence, accuracy in bins) / len(confidences)


def calibration_deviations(confidences: Confidences, correct: Correct) -> npt.NDArray[np.float64]:
    """Confidence minus 1 (correct) or 0 (wrong) of each image, in the column of its bin; float64 [N, 15].

    The absolute column sums, added up and divided by N, are the calibration error.
    """
    deviations = np.zeros((len(confidences), _BINS))
    deviations[np.arange(len(confidences)), _bin_of(confidences)] = confidences - correct
    return deviations


def _bin_of(confidences: Confidences) -> npt.NDArray[np.int64]:
    return np.minimum((confidences * _BINS).astype(np.int64), _BINS - 1)
