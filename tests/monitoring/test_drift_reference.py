import numpy as np
import pytest

from image_classifier.errors import PackageError
from image_classifier.monitoring.drift_reference import DriftReference, Feature
from image_classifier.package.package import Package
from image_classifier.package.reference_statistics import encode_array
from tests.conftest import write_color_package

REFERENCE = DriftReference(
    (Feature("brightness", (0.3, 0.6), 0, np.array([300, 300, 300])), Feature("class", None, 3, np.array([450, 450]))),
    ("cat", "dog"),
)


def test_counts_are_split_by_feature_and_joined_again():
    by_feature = {"brightness": [1, 2, 3], "class": [4, 2]}
    counts = REFERENCE.join_counts(by_feature)
    assert counts.tolist() == [1, 2, 3, 4, 2]
    assert REFERENCE.split_counts(counts) == by_feature


@pytest.mark.parametrize(
    ("by_feature", "message"),
    [
        ({"brightness": [1]}, "the features are brightness instead of brightness, class"),
        ({"brightness": [1, 2, 3], "class": [1]}, "class has 1 bins instead of 2"),
    ],
)
def test_counts_of_another_reference_are_rejected(by_feature, message):
    with pytest.raises(ValueError, match=message):
        REFERENCE.join_counts(by_feature)


def test_a_package_without_features_has_no_reference(package_folder):
    assert DriftReference.of(Package.read(package_folder)) is None


CLASSES = {"class": {"counts": [1, 2, 3, 4]}}
EMBEDDING = {"dimensions": 2, "matrix": encode_array(np.eye(2, dtype=np.float32)), "offset": "AAAAAAAAAAA="}


def test_the_stored_embeddings_are_the_reference(tmp_path):
    sample = np.array([[1, 2], [3, 4]], np.float16)
    write_color_package(
        tmp_path, reference={"features": CLASSES, "embedding": {**EMBEDDING, "sample": encode_array(sample)}}
    )
    embedding = DriftReference.of(Package.read(tmp_path)).embedding
    assert embedding.sample.tolist() == sample.tolist()
    assert embedding.project(np.array([[5, 6]], np.float32)).tolist() == [[5, 6]]
    assert embedding.decode(embedding.encode(embedding.sample)).tolist() == sample.tolist()


@pytest.mark.parametrize(
    "stored",
    [
        {"features": CLASSES, "embedding": EMBEDDING},
        {"features": CLASSES, "embedding": {**EMBEDDING, "sample": "AAA"}},
        {"features": CLASSES, "embedding": {**EMBEDDING, "sample": encode_array(np.zeros(3, np.float16))}},
        {"features": CLASSES, "embedding": {**EMBEDDING, "sample": encode_array(np.array([1, np.nan], np.float16))}},
        {"features": CLASSES, "embedding": {**EMBEDDING, "dimensions": 0}},
        {"features": CLASSES, "embedding": []},
        {"features": {"brightness": {"edges": [0.5], "counts": [1, 2, 3]}}},
        {"features": {"brightness": {"counts": [1]}}},
        {"features": {"class": {"counts": [1, 2]}}},
        {"features": {"class": {"counts": [1, 2, 3, -1]}}},
        {"features": []},
    ],
)
def test_invalid_reference_statistics_are_rejected(tmp_path, stored):
    write_color_package(tmp_path, reference=stored)
    with pytest.raises(PackageError, match="invalid reference statistics"):
        DriftReference.of(Package.read(tmp_path))
