"""Detection of label errors by confident learning (Northcutt, Jiang & Chuang 2021, arXiv:1911.00068)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.package import Probabilities

MAX_SUSPECTS = 24


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong."""

    part: str
    """Either test, or train for an image of the validation split."""
    row: int
    """Row in that part."""
    name: str
    label: str
    suggested: str
    confidence: float
    """Probability of the suggested class."""
    self_confidence: float
    """Probability of the class in the label."""


@dataclass(frozen=True)
class LabelErrors:
    """Probable label errors among images that the model was not trained on."""

    images: int
    """Number of images checked, and of suspects among them."""
    count: int
    suspects: tuple[Suspect, ...]
    """The most suspect first, at most 24."""


def find_label_errors(
    probabilities: Probabilities, labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows with a suspect label, the most suspect first, and the class suggested for each.

    `probabilities`, float32 [N, K], must be of images that the model was not trained on; `labels` is int64 [N]. An
    image confidently belongs to a class if the probability of the class reaches its mean over the images with that
    label. A label is suspect if the most probable of these classes is another one; suspects are ranked by the margin.
    """
    rows = np.arange(len(labels))
    self_confidence = probabilities[rows, labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, weights=self_confidence, minlength=probabilities.shape[1])
    # A class without images is never suggested.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    suggested = confident.argmax(axis=1)
    suspect = np.flatnonzero((confident[rows, suggested] >= 0) & (suggested != labels))
    margin = probabilities[suspect, suggested[suspect]] - self_confidence[suspect]
    order = suspect[np.argsort(-margin, kind="stable")]
    return order, suggested[order]
