"""Whether what a server sees is still like what its model was made with.

Each feature's counts are compared with the reference's by a two-sample test, and Bonferroni's correction keeps the
share of false alarms: the recipe that Rabanser, Günnemann & Lipton found as good as any for images (Failing Loudly,
arXiv:1810.11953). The chance of a difference is that among random divisions of all the images in two, as many in each
as there are: so it holds for any number of images, classes and ties, and needs no table. The divisions are drawn until
enough of them differ as much (Besag & Clifford 1991, Sequential Monte Carlo p-values, Biometrika 78).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classifier.errors import PackageError
from image_classifier.package import (
    CLASS,
    CONFIDENCE,
    IMAGE_STATISTICS,
    SIZE,
    Package,
    Probabilities,
    confidence_of,
    image_statistics,
    place_in,
    shorter_side,
)

LEAST_DISTANCE = 0.05
"""A smaller difference is no drift however sure it is: no two sets of real images are quite the same."""
_DRAWS, _ENOUGH = 4_999, 20
_CHUNK_NUMBERS = 200_000
_SEED = 0

FeatureCounts = npt.NDArray[np.int64]
"""int64 [B]: how many images fell into each bin, of all features one after the other."""


class DriftVerdict(StrEnum):
    """What is to be said of the images."""

    DRIFT = "drift"
    NO_DRIFT = "no_drift"
    TOO_FEW_IMAGES = "too_few_images"
    NO_REFERENCE = "no_reference"


@dataclass(frozen=True)
class Feature:
    """Something that is counted of each image, and the reference's counts."""

    name: str
    edges: tuple[float, ...] | None
    """Of the bins of a number; None: the bins are the classes."""
    first: int
    """Place of its first bin among those of all features."""
    counts: FeatureCounts

    @property
    def bins(self) -> slice:
        return slice(self.first, self.first + len(self.counts))


@dataclass(frozen=True)
class DriftReference:
    """What the images and answers of a package's own data looked like."""

    features: tuple[Feature, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, package: Package) -> "DriftReference | None":
        """The package's reference; None where it was packed by a version of this program that made no such one.

        Raises PackageError where there is one that cannot be used.
        """
        if "features" not in package.reference:
            return None
        features: list[Feature] = []
        first = 0
        try:
            for name, stored in package.reference["features"].items():
                edges = tuple(map(float, stored["edges"])) if name != CLASS else None
                counts = np.array(stored["counts"], dtype=np.int64)
                bins = len(package.classes) if edges is None else len(edges) + 1
                if counts.shape != (bins,) or counts.min() < 0:
                    raise ValueError(name)
                features.append(Feature(name, edges, first, counts))
                first += bins
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PackageError(
                f"the reference in {package.folder / 'reference.json'} cannot be used ({error!r}); pack the model "
                "again"
            ) from error
        return cls(tuple(features), package.classes)

    @cached_property
    def bins(self) -> int:
        """How many bins all features have."""
        return sum(len(feature.counts) for feature in self.features)

    @cached_property
    def _by_name(self) -> Mapping[str, Feature]:
        return {feature.name: feature for feature in self.features}

    @cached_property
    def _of_images(self) -> list[tuple[int, int, tuple[float, ...]]]:
        """First bin and edges of each image statistic, and the statistic's place."""
        return [
            (place, feature.first, feature.edges)
            for place, name in enumerate(IMAGE_STATISTICS)
            if (feature := self._by_name.get(name)) is not None and feature.edges is not None
        ]

    def places_of_image(self, image: npt.NDArray[np.uint8]) -> list[int]:
        """The bins that one image, uint8 [S, S, 3], falls into."""
        values = image_statistics(image)
        return [first + place_in(edges, values[place]) for place, first, edges in self._of_images]

    def places_of_answer(self, probabilities: Probabilities) -> list[int]:
        """The bins that one answer, float32 [K], falls into."""
        confidence, answer = self._by_name[CONFIDENCE], self._by_name[CLASS]
        return [
            confidence.first + place_in(confidence.edges or (), confidence_of(probabilities)),
            answer.first + int(probabilities.argmax()),
        ]

    def places_of_size(self, width: int, height: int) -> list[int]:
        """The bin of an encoded image's size; [] where the reference does not know sizes."""
        feature = self._by_name.get(SIZE)
        if feature is None:
            return []
        return [feature.first + place_in(feature.edges or (), shorter_side(width, height))]

    def no_counts(self) -> FeatureCounts:
        """The counts of no images."""
        return np.zeros(self.bins, dtype=np.int64)

    def by_feature(self, counts: FeatureCounts) -> dict[str, list[int]]:
        """Counts as they are told to others."""
        return {feature.name: counts[feature.bins].tolist() for feature in self.features}

    def joined(self, by_feature: Mapping[str, Sequence[int]]) -> FeatureCounts:
        """The reverse of `by_feature`; raises ValueError where they are not of these features and bins."""
        counts = self.no_counts()
        if set(by_feature) != set(self._by_name):
            raise ValueError(f"they are of the features {', '.join(by_feature)}")
        for feature in self.features:
            given = by_feature[feature.name]
            if len(given) != len(feature.counts):
                raise ValueError(f"{feature.name} has {len(given)} bins, not {len(feature.counts)}")
            counts[feature.bins] = given
        return counts


@dataclass(frozen=True)
class FeatureFinding:
    """What the test of one feature said."""

    name: str
    images: int
    """Of the window, of which the feature is known."""
    p_value: float
    """The chance of such a difference where nothing has changed; 1 at most."""
    distance: float
    """0 to 1: of numbers the largest difference of the cumulative shares, of classes the share that is elsewhere."""
    drifted: bool
    in_words: str


@dataclass(frozen=True)
class DriftJudgement:
    """What a window of images told."""

    verdict: DriftVerdict
    reason: str
    findings: tuple[FeatureFinding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.value,
            "reason": self.reason,
            "features": [
                {
                    "name": finding.name,
                    "images": finding.images,
                    "p_value": round(finding.p_value, 5),
                    "distance": round(finding.distance, 4),
                    "drifted": finding.drifted,
                    "in_words": finding.in_words,
                }
                for finding in self.findings
            ],
        }


def too_few_images(images: int, window: int) -> DriftJudgement:
    """The judgement before the first window is full."""
    reason = f"{images:,} images were seen, and {window:,} are needed to tell"
    return DriftJudgement(DriftVerdict.TOO_FEW_IMAGES, reason)


def no_reference() -> DriftJudgement:
    """The judgement for a package of an earlier version of this program."""
    return DriftJudgement(
        DriftVerdict.NO_REFERENCE,
        "the model was packed without the counts that are compared with; train it again",
    )


def judge_drift(reference: DriftReference, counts: FeatureCounts, false_alarms: float) -> DriftJudgement:
    """Judge a window of images by its counts; of windows without a change at most `false_alarms` are called drift."""
    random = np.random.default_rng(_SEED)
    tested = [
        feature for feature in reference.features if feature.counts.sum() and counts[feature.bins].sum()
    ]
    if not tested:
        return too_few_images(0, 1)
    significance = false_alarms / len(tested)
    findings = []
    for feature in tested:
        seen = counts[feature.bins]
        distance, words = _difference(feature, seen, reference.classes)
        p_value = chance_of_difference(feature.counts, seen, ordered=feature.edges is not None, random=random)
        drifted = p_value <= significance and distance >= LEAST_DISTANCE
        in_words = words if drifted else f"no sure difference of {feature.name}"
        findings.append(FeatureFinding(feature.name, int(seen.sum()), p_value, distance, drifted, in_words))
    changed = sorted((each for each in findings if each.drifted), key=lambda each: -each.distance)
    if changed:
        reason = "; ".join(finding.in_words for finding in changed)
        return DriftJudgement(DriftVerdict.DRIFT, reason, tuple(findings))
    least = min(findings, key=lambda finding: finding.p_value)
    reason = (
        f"no feature of the images or answers surely differs from the reference (nearest to it {least.name}, "
        f"p = {least.p_value:.2g})"
    )
    return DriftJudgement(DriftVerdict.NO_DRIFT, reason, tuple(findings))


def chance_of_difference(
    reference: FeatureCounts, seen: FeatureCounts, *, ordered: bool, random: np.random.Generator
) -> float:
    """The chance that counts of two samples of the same kind differ as much as these do; more than 0.

    The difference is Anderson's and Darling's for ordered bins (Scholz & Stephens 1987, JASA 82, on
    grouped values) and Pearson's chi-square for others.
    """
    pooled = reference + seen
    images = int(seen.sum())
    statistic = _anderson_darling(pooled, images) if ordered else _chi_square(pooled, images)
    observed = statistic(seen[np.newaxis])[0]
    # What is equal but for the order of additions must count as equal.
    observed -= 1e-9 * abs(observed)
    drawn = as_large = 0
    chunk = 10 * _ENOUGH
    while drawn < _DRAWS:
        chunk = min(chunk, _DRAWS - drawn, max(1, _CHUNK_NUMBERS // len(pooled)))
        draws = random.multivariate_hypergeometric(pooled, images, size=chunk, method="marginals")
        larger = np.flatnonzero(statistic(draws) >= observed)
        if as_large + len(larger) >= _ENOUGH:
            return float(_ENOUGH / (drawn + larger[_ENOUGH - as_large - 1] + 1))
        as_large += len(larger)
        drawn += chunk
        chunk *= 10
    return (as_large + 1) / (drawn + 1)


Statistic = Callable[[FeatureCounts], npt.NDArray[np.float64]]
"""Of counts int64 [D, B] of each of D draws; float64 [D]."""


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


def _difference(feature: Feature, seen: FeatureCounts, classes: Sequence[str]) -> tuple[float, str]:
    """How far the seen shares are from the reference's, 0 to 1, and in which way."""
    expected, shares = feature.counts / feature.counts.sum(), seen / seen.sum()
    if feature.edges is None:
        change = shares - expected
        most = int(np.abs(change).argmax())
        words = f"{classes[most]} is {shares[most]:.0%} of the answers instead of {expected[most]:.0%}"
        return float(np.abs(change).sum() / 2), words
    rise = (expected - shares).cumsum()[:-1]
    distance = float(np.abs(rise).max(initial=0))
    one_way = abs(rise.sum()) > np.abs(rise).sum() / 2
    if not one_way:
        return distance, f"{feature.name} is spread otherwise"
    return distance, f"{feature.name} is {'higher' if rise.sum() > 0 else 'lower'}"
