"""The reference statistics of a package as features with bins, and counts of images in these bins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classifier.errors import PackageError
from image_classifier.package import (
    CLASS_FEATURE,
    CONFIDENCE_FEATURE,
    EMBEDDING_FEATURE,
    IMAGE_STATISTICS,
    SIZE_FEATURE,
    Embeddings,
    Package,
    Probabilities,
    bin_index,
    decode_array,
    encode_array,
    image_statistics,
    project,
    shorter_side,
    top_confidence,
)

FeatureCounts = npt.NDArray[np.int64]
"""int64 [B]: number of images in each bin, the bins of all features concatenated."""
ProjectedEmbeddings = npt.NDArray[np.float32]
"""float32 [N, D]"""


@dataclass(frozen=True)
class Feature:
    """A feature of images or predictions, with the reference's counts."""

    name: str
    edges: tuple[float, ...] | None
    """Bin edges of a numeric feature; None if the bins are the classes."""
    first: int
    """Index of its first bin among the bins of all features."""
    counts: FeatureCounts

    @property
    def bins(self) -> slice:
        return slice(self.first, self.first + len(self.counts))


@dataclass(frozen=True)
class EmbeddingReference:
    """A sample of the embeddings of the data that a package was made from, and the projection to few dimensions."""

    matrix: npt.NDArray[np.float32]
    """float32 [E, D]"""
    offset: npt.NDArray[np.float32]
    """float32 [D]"""
    sample: ProjectedEmbeddings

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "EmbeddingReference":
        """Raises KeyError, TypeError or ValueError for invalid content."""
        dimensions = int(stored["dimensions"])
        matrix = decode_array(stored["matrix"], "f4", dimensions)
        (offset,) = decode_array(stored["offset"], "f4", dimensions)
        return cls(matrix, offset, decode_array(stored["sample"], "f2", dimensions))

    @property
    def dimensions(self) -> int:
        """Number of projected dimensions, D."""
        return len(self.offset)

    def project(self, embeddings: Embeddings) -> ProjectedEmbeddings:
        """Project embeddings, float32 [N, E], to float32 [N, D]."""
        return project(embeddings, self.matrix, self.offset)

    def encode(self, projected: ProjectedEmbeddings) -> str:
        """Projected embeddings for JSON: base64 of float16."""
        return encode_array(projected.astype(np.float16))

    def decode(self, text: str) -> ProjectedEmbeddings:
        """The reverse of `encode`. Raises ValueError if the text does not have D numbers an image."""
        return decode_array(text, "f2", self.dimensions)


@dataclass(frozen=True)
class DriftReference:
    """The distributions of the images and predictions of the data that a package was made from."""

    features: tuple[Feature, ...]
    classes: tuple[str, ...]
    embedding: EmbeddingReference | None = None
    """None if the model has no embeddings, or was trained on too few images."""

    @classmethod
    def of(cls, package: Package) -> "DriftReference | None":
        """The package's reference; None for a package without one. Raises PackageError if it is invalid."""
        if "features" not in package.reference:
            return None
        features: list[Feature] = []
        first = 0
        try:
            for name, stored in package.reference["features"].items():
                edges = tuple(map(float, stored["edges"])) if name != CLASS_FEATURE else None
                counts = np.array(stored["counts"], dtype=np.int64)
                bins = len(package.classes) if edges is None else len(edges) + 1
                if counts.shape != (bins,) or counts.min() < 0:
                    raise ValueError(name)
                features.append(Feature(name, edges, first, counts))
                first += bins
            stored = package.reference.get(EMBEDDING_FEATURE)
            embedding = None if stored is None else EmbeddingReference.from_json(stored)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PackageError(
                f"invalid reference statistics in {package.folder / 'reference.json'} ({error!r}); export the model "
                "again"
            ) from error
        return cls(tuple(features), package.classes, embedding)

    @cached_property
    def bin_count(self) -> int:
        """Number of bins of all features, B."""
        return sum(len(feature.counts) for feature in self.features)

    @cached_property
    def _by_name(self) -> Mapping[str, Feature]:
        return {feature.name: feature for feature in self.features}

    @cached_property
    def _image_features(self) -> list[tuple[int, int, tuple[float, ...]]]:
        """Index of each image statistic in the reference, with its first bin and its edges."""
        return [
            (index, feature.first, feature.edges)
            for index, name in enumerate(IMAGE_STATISTICS)
            if (feature := self._by_name.get(name)) is not None and feature.edges is not None
        ]

    def image_bins(self, image: npt.NDArray[np.uint8]) -> list[int]:
        """Indices of the bins of one image, uint8 [S, S, 3]."""
        values = image_statistics(image)
        return [first + bin_index(edges, values[index]) for index, first, edges in self._image_features]

    def prediction_bins(self, probabilities: Probabilities) -> list[int]:
        """Indices of the bins of one prediction, float32 [K]."""
        confidence, predicted = self._by_name[CONFIDENCE_FEATURE], self._by_name[CLASS_FEATURE]
        return [
            confidence.first + bin_index(confidence.edges or (), top_confidence(probabilities)),
            predicted.first + int(probabilities.argmax()),
        ]

    def size_bins(self, width: int, height: int) -> list[int]:
        """Index of the bin of an encoded image's size; [] if the reference has no sizes."""
        feature = self._by_name.get(SIZE_FEATURE)
        if feature is None:
            return []
        return [feature.first + bin_index(feature.edges or (), shorter_side(width, height))]

    def zero_counts(self) -> FeatureCounts:
        return np.zeros(self.bin_count, dtype=np.int64)

    def split_counts(self, counts: FeatureCounts) -> dict[str, list[int]]:
        """The counts by feature, for JSON."""
        return {feature.name: counts[feature.bins].tolist() for feature in self.features}

    def join_counts(self, by_feature: Mapping[str, Sequence[int]]) -> FeatureCounts:
        """The reverse of `split_counts`. Raises ValueError if the features or their bins differ from the reference."""
        counts = self.zero_counts()
        if set(by_feature) != set(self._by_name):
            raise ValueError(f"the features are {', '.join(by_feature)} instead of {', '.join(self._by_name)}")
        for feature in self.features:
            feature_counts = by_feature[feature.name]
            if len(feature_counts) != len(feature.counts):
                raise ValueError(f"{feature.name} has {len(feature_counts)} bins instead of {len(feature.counts)}")
            counts[feature.bins] = feature_counts
        return counts
