"""Images whose label is probably wrong, by confident learning (Northcutt, Jiang & Chuang 2021, arXiv:1911.00068)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.package import Probabilities

MOST_SUSPECTS = 24


@dataclass(frozen=True)
class Suspect:
    """An image whose label the model contradicts with the confidence it has in right answers."""

    part: str
    """test, or train: of its validation split, which was not trained on."""
    row: int
    name: str
    label: str
    suggested: str
    confidence: float
    """The probability of the suggested class."""
    self_confidence: float
    """The probability of the class that the label names."""


@dataclass(frozen=True)
class LabelErrors:
    """What confident learning says of the labels of images that were not trained on."""

    images: int
    """How many were looked at."""
    count: int
    """How many of them are suspect."""
    suspects: tuple[Suspect, ...]
    """The most suspect ones, at most 24."""


def suspects_of(
    probabilities: Probabilities, labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows whose label is suspect, the most suspect first, and the class that each seems to have.

    `probabilities`, float32 [N, K], must be of images that the model was not trained on, with `labels` int64 [N].
    A class is confidently seen in an image where its probability reaches the mean that it has over the images
    labelled with it; an image is suspect where the likeliest of such classes is another than its label. They are
    ranked by how much more probable that class is.
    """
    rows = np.arange(len(labels))
    self_confidence = probabilities[rows, labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, weights=self_confidence, minlength=probabilities.shape[1])
    # A class without an image is never confidently seen.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    seen = np.where(probabilities >= thresholds, probabilities, -1.0)
    suggested = seen.argmax(axis=1)
    suspect = np.flatnonzero((seen[rows, suggested] >= 0) & (suggested != labels))
    margin = probabilities[suspect, suggested[suspect]] - self_confidence[suspect]
    order = suspect[np.argsort(-margin, kind="stable")]
    return order, suggested[order]
