"""Drift detection: whether the images and predictions of a server are distributed as in the reference.

Each feature's counts are compared with the reference by a two-sample test, and a Bonferroni correction bounds the rate
of false alarms: the method that Rabanser, Günnemann & Lipton found as good as any for images (arXiv:1810.11953). These
are permutation tests, so they are exact for any number of images and classes and for ties. The permutations are drawn
sequentially until enough of them differ as much as the observed counts (Besag & Clifford 1991, Biometrika 78), which
takes milliseconds; scipy.stats permutes single images instead of counts, which takes seconds.

The embeddings of a model on a backbone are compared by their energy distance (Székely & Rizzo 2013, J. Stat. Planning
and Inference 143), with the same permutations: here of images. It finds a difference of any kind in all dimensions
together, and has no parameter to choose, unlike a kernel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classifier.monitoring.drift_reference import DriftReference, Feature, FeatureCounts, ProjectedEmbeddings
from image_classifier.package import EMBEDDING_FEATURE, MIN_EMBEDDINGS

MIN_DISTANCE = 0.05
"""A smaller distance is not drift however significant it is: two sets of real images always differ a little."""
_MAX_PERMUTATIONS, _ENOUGH_EXTREME = 4_999, 20
_CHUNK_SIZE = 200_000  # counts in memory at a time
_SEED = 0


class DriftVerdict(StrEnum):
    """The result of drift detection."""

    DRIFT = "drift"
    NO_DRIFT = "no_drift"
    TOO_FEW_IMAGES = "too_few_images"
    NO_REFERENCE = "no_reference"


@dataclass(frozen=True)
class FeatureResult:
    """The test of one feature."""

    name: str
    images: int
    """Number of images in the window for which the feature is known."""
    p_value: float
    distance: float
    """0 to 1: the Kolmogorov-Smirnov distance of a numeric feature, the total variation distance of classes, the root
    of the energy coefficient of embeddings."""
    drifted: bool
    description: str


@dataclass(frozen=True)
class DriftResult:
    """The verdict on a window of images."""

    verdict: DriftVerdict
    reason: str
    features: tuple[FeatureResult, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.value,
            "reason": self.reason,
            "features": [
                {
                    "name": feature.name,
                    "images": feature.images,
                    "p_value": round(feature.p_value, 5),
                    "distance": round(feature.distance, 4),
                    "drifted": feature.drifted,
                    "in_words": feature.description,
                }
                for feature in self.features
            ],
        }


def too_few_images(images: int, window: int) -> DriftResult:
    """The result before the first window of images is full."""
    return DriftResult(DriftVerdict.TOO_FEW_IMAGES, f"{images:,} of the {window:,} images needed were received")


def no_reference() -> DriftResult:
    """The result for a package without reference statistics."""
    return DriftResult(DriftVerdict.NO_REFERENCE, "the model has no reference statistics; train it again to get them")


def detect_drift(
    reference: DriftReference, counts: FeatureCounts, false_alarms: float, embeddings: ProjectedEmbeddings | None = None
) -> DriftResult:
    """Compare the counts of a window with the reference; `false_alarms` is the maximum false alarm rate of a window.

    `embeddings` are those of a sample of the window's images, float32 [N, D].
    """
    random = np.random.default_rng(_SEED)
    tested = [feature for feature in reference.features if feature.counts.sum() and counts[feature.bins].sum()]
    if not tested:
        return too_few_images(0, 1)
    embedding = reference.embedding
    if embedding is None or embeddings is None or min(len(embeddings), len(embedding.sample)) < MIN_EMBEDDINGS:
        embedding = embeddings = None
    significance = false_alarms / (len(tested) + (embedding is not None))
    results = []
    for feature in tested:
        window = counts[feature.bins]
        distance, change = _compare(feature, window, reference.classes)
        p_value = permutation_p_value(feature.counts, window, ordered=feature.edges is not None, random=random)
        drifted = p_value <= significance and distance >= MIN_DISTANCE
        description = change if drifted else f"no significant difference in {feature.name}"
        results.append(FeatureResult(feature.name, int(window.sum()), p_value, distance, drifted, description))
    if embedding is not None and embeddings is not None:
        p_value, distance = energy_test(embedding.sample, embeddings, random)
        drifted = p_value <= significance and distance >= MIN_DISTANCE
        difference = "the images look different" if drifted else "no significant difference in how the images look"
        description = f"{difference} (embeddings of {len(embeddings):,}, compared with {len(embedding.sample):,})"
        results.append(FeatureResult(EMBEDDING_FEATURE, len(embeddings), p_value, distance, drifted, description))
    changed = sorted((each for each in results if each.drifted), key=lambda each: -each.distance)
    if changed:
        reason = "; ".join(result.description for result in changed)
        return DriftResult(DriftVerdict.DRIFT, reason, tuple(results))
    smallest = min(results, key=lambda result: result.p_value)
    quoted = f"smallest p-value: {smallest.p_value:.2g}, {smallest.name}"
    reason = f"no feature differs significantly from the reference ({quoted})"
    return DriftResult(DriftVerdict.NO_DRIFT, reason, tuple(results))


def permutation_p_value(
    reference: FeatureCounts, window: FeatureCounts, *, ordered: bool, random: np.random.Generator
) -> float:
    """The p-value of a two-sample permutation test on binned counts, int64 [B] each; above 0 and at most 1.

    The statistic is Anderson-Darling's for ordered bins (Scholz & Stephens 1987, JASA 82), else Pearson's chi-square.
    """
    pooled = reference + window
    images = int(window.sum())
    statistic = _anderson_darling(pooled, images) if ordered else _chi_square(pooled, images)
    observed = statistic(window[np.newaxis])[0]

    def permuted(count: int) -> npt.NDArray[np.float64]:
        # The counts of the window when all images are divided again at random.
        return statistic(random.multivariate_hypergeometric(pooled, images, size=count, method="marginals"))

    # Values that differ only by the rounding of their sums must count as equal.
    return _sequential_p_value(observed - 1e-9 * abs(observed), permuted, len(pooled))


def energy_test(
    reference: ProjectedEmbeddings, window: ProjectedEmbeddings, random: np.random.Generator
) -> tuple[float, float]:
    """The p-value of a two-sample permutation test by the energy distance, and the distance, 0 to 1.

    Both samples are float32 [N, D], of two images or more. The distance is the root of the energy coefficient, without
    the bias of small samples: 0 for equal distributions, 1 for two points.
    """
    pooled = np.concatenate([reference, window]).astype(np.float64)
    images, others = len(window), len(reference)
    squares = np.square(pooled).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, np.newaxis] + squares - 2 * pooled @ pooled.T, 0))
    np.fill_diagonal(distances, 0)
    between = distances[:others, others:].mean()
    within = distances[:others, :others].sum() / (others * (others - 1))
    within += distances[others:, others:].sum() / (images * (images - 1))
    coefficient = max(0.0, 1 - within / (2 * between)) if between else 0.0
    # After centering, the energy distance of a part from the rest is the sum over the pairs within the part, but for a
    # factor that only depends on its size.
    means = distances.mean(axis=0)
    similarities = (means + means[:, np.newaxis] - means.mean() - distances).astype(np.float32)

    def statistic(parts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """From float32 [N, P], 1 for the images of each of P parts, to float32 [P]."""
        values: npt.NDArray[np.float32] = (parts * (similarities @ parts)).sum(axis=0)
        return values

    def permuted(count: int) -> npt.NDArray[np.float32]:
        parts = np.zeros((count, len(pooled)), np.float32)
        chosen = random.random(parts.shape, dtype=np.float32).argpartition(images, axis=1)[:, :images]
        np.put_along_axis(parts, chosen, 1, axis=1)
        return statistic(np.ascontiguousarray(parts.T))

    observed = float(statistic((np.arange(len(pooled)) >= others).astype(np.float32)[:, np.newaxis])[0])
    p_value = _sequential_p_value(observed - 1e-5 * abs(observed), permuted, len(pooled))
    return p_value, float(coefficient**0.5)


def _sequential_p_value(observed: float, permuted: Callable[[int], npt.NDArray[np.floating[Any]]], size: int) -> float:
    """The p-value of an observed statistic; `permuted` returns those of a number of permutations of `size` numbers."""
    drawn = extreme = 0
    chunk = 10 * _ENOUGH_EXTREME
    while drawn < _MAX_PERMUTATIONS:
        chunk = min(chunk, _MAX_PERMUTATIONS - drawn, max(1, _CHUNK_SIZE // size))
        as_extreme = np.flatnonzero(permuted(chunk) >= observed)
        if extreme + len(as_extreme) >= _ENOUGH_EXTREME:
            return float(_ENOUGH_EXTREME / (drawn + as_extreme[_ENOUGH_EXTREME - extreme - 1] + 1))
        extreme += len(as_extreme)
        drawn += chunk
        chunk *= 10
    return (extreme + 1) / (drawn + 1)


Statistic = Callable[[FeatureCounts], npt.NDArray[np.float64]]
"""From counts int64 [D, B] of D permutations to float64 [D]."""


def _anderson_darling(pooled: FeatureCounts, images: int) -> Statistic:
    below = pooled.cumsum()[:-1] / pooled.sum()
    inside = (below > 0) & (below < 1)
    below = below[inside]
    weights = (pooled[:-1][inside] / pooled.sum()) / (below * (1 - below))

    def statistic(counts: FeatureCounts) -> npt.NDArray[np.float64]:
        difference = counts.cumsum(axis=1)[:, :-1][:, inside] - images * below
        squares: npt.NDArray[np.float64] = np.square(difference) @ weights
        return squares

    return statistic


def _chi_square(pooled: FeatureCounts, images: int) -> Statistic:
    expected = images * pooled / pooled.sum()
    present = expected > 0
    weights = 1 / expected[present]

    def statistic(counts: FeatureCounts) -> npt.NDArray[np.float64]:
        squares: npt.NDArray[np.float64] = np.square(counts[:, present] - expected[present]) @ weights
        return squares

    return statistic


def _compare(feature: Feature, window: FeatureCounts, classes: Sequence[str]) -> tuple[float, str]:
    """The distance of the window's distribution from the reference's, 0 to 1, and a description of the change."""
    expected, shares = feature.counts / feature.counts.sum(), window / window.sum()
    if feature.edges is None:
        change = np.abs(shares - expected)
        largest = int(change.argmax())
        new, old = (f"{100 * fractions[largest]:.0f} %" for fractions in (shares, expected))
        return float(change.sum() / 2), f"{classes[largest]} is predicted for {new} of the images instead of {old}"
    rise = (expected - shares).cumsum()[:-1]
    distance = float(np.abs(rise).max(initial=0))
    if abs(rise.sum()) <= np.abs(rise).sum() / 2:
        return distance, f"{feature.name} has another distribution"
    return distance, f"{feature.name} is {'higher' if rise.sum() > 0 else 'lower'}"
