"""Whether mirrored images keep their class: a test on validation images, by a network trained without flips."""

from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, t as student

Logits = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

MAX_IMAGES = 600
MAX_IMAGES_PER_CLASS = 30
_MIN_IMAGES_PER_CLASS = 3
_SIGNIFICANCE = 0.01  # of the whole test, shared by all pairs of classes


def choose_rows(labels: Labels) -> Labels:
    """The first images of each class, in even numbers, as sorted rows of `labels`, int64 [N]; at most 600."""
    classes = np.unique(labels)
    count = max(1, min(MAX_IMAGES_PER_CLASS, MAX_IMAGES // len(classes)))
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in classes]))[:MAX_IMAGES]


def mirrored_images_keep_their_class(logits: Logits, mirrored: Logits, labels: Labels) -> bool | None:
    """Returns False if mirrored images lose their class, True if they keep it, None if the evidence is not enough.

    `logits` and `mirrored`, float64 [N, K], are a network's outputs for N images and for their mirror images; `labels`
    is int64 [N]. For each pair of classes, the margin of an image is the logit of its class minus that of the other.
    The network tells the classes apart if their mean margin is positive (one-sided t-test). Mirroring exchanges them if
    the mean margin of the mirror images is negative: a mirrored arrow to the left looks like one to the right. Mirrored
    photos have a smaller margin than the photos, but a positive one. The significance is corrected for all pairs.

    With many classes the pairs have too few images each. Mirrored images then lose their class if a network that
    recognizes most images does not recognize most of their mirror images (one-sided binomial test).
    """
    recognized = logits.argmax(axis=1) == labels
    if recognized.mean() >= 0.5:
        mirrored_too = int((mirrored.argmax(axis=1) == labels)[recognized].sum())
        if binomtest(mirrored_too, int(recognized.sum()), 0.5, "less").pvalue < _SIGNIFICANCE:
            return False
    classes = logits.shape[1]
    significance = _SIGNIFICANCE / (classes * (classes - 1) / 2)
    members = [np.flatnonzero(labels == label) for label in range(classes)]
    is_complete = True
    for pair in combinations(range(classes), 2):
        if min(len(members[label]) for label in pair) < _MIN_IMAGES_PER_CLASS:
            is_complete = False
            continue
        is_separated = _bound(logits, members, pair, significance) > 0
        if is_separated and _bound(-mirrored, members, pair, significance) > 0:
            return False
        is_complete &= is_separated
    return True if is_complete else None


def _bound(logits: Logits, members: list[Labels], pair: tuple[int, int], significance: float) -> float:
    """Lower confidence bound of the mean margin of two classes, which have equal weight: a bias cancels out."""
    margins = [logits[members[a], a] - logits[members[a], b] for a, b in (pair, pair[::-1])]
    variances = [margin.var(ddof=1) / len(margin) for margin in margins]
    freedom = len(margins[0]) + len(margins[1]) - 2
    quantile = float(student.isf(significance, freedom))
    return float(sum(margin.mean() for margin in margins) - quantile * np.sqrt(sum(variances)))
