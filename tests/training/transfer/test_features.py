import numpy as np
import pytest

from image_classifier.backbones import SHIPPED
from image_classifier.training.transfer.features import FeatureExtractor, FeatureFile
from tests.training.samples import stripes

DATA = stripes(32, images=100)
ROWS = np.arange(0, 100)[::-1].copy()


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor(SHIPPED["efficientnet-lite0"].feature_graph(32), threads=1)


def extract(file: FeatureFile, *, batches: int = 99, mirrored: bool = False) -> int:
    """Number of images whose features were computed."""
    done: list[int] = []
    file.extract(DATA, mirrored=mirrored, is_over=lambda: len(done) >= batches, on_progress=done.append)
    return sum(done)


def test_features_are_in_the_order_of_the_rows(extractor):
    file = FeatureFile(None, "key", "train", ROWS, extractor)
    assert extract(file) == 100
    np.testing.assert_allclose(file.values[3], extractor(DATA.train.images[96:97]).features[0], atol=1e-4)


def test_mirrored_features_are_those_of_the_mirror_image(extractor):
    file = FeatureFile(None, "key", "mirrored", ROWS[:5], extractor)
    extract(file, mirrored=True)
    expected = extractor(np.ascontiguousarray(DATA.train.images[ROWS[:5]][:, :, ::-1])).features
    np.testing.assert_allclose(file.values, expected, atol=1e-4)


def test_at_least_one_batch_is_computed_and_no_more_once_the_time_is_over(extractor):
    file = FeatureFile(None, "key", "train", ROWS, extractor)
    assert extract(file, batches=0) == 32
    assert file.values.shape == (32, extractor.dimensions)


def test_photos_are_computed_in_smaller_batches_than_small_images():
    photos = stripes(160, images=12)
    extractor = FeatureExtractor(SHIPPED["efficientnet-lite0"].feature_graph(160), threads=1)
    file, sizes = FeatureFile(None, "key", "train", np.arange(12), extractor), []
    file.extract(photos, mirrored=False, is_over=lambda: False, on_progress=sizes.append)
    assert sizes == [9, 3]
    np.testing.assert_array_equal(file.values, extractor(photos.train.images[:12]).features)


def test_an_interrupted_extraction_continues(extractor, tmp_path):
    first = FeatureFile(tmp_path, "key", "train", ROWS, extractor)
    assert extract(first, batches=2) == 64
    second = FeatureFile(tmp_path, "key", "train", ROWS, extractor)
    assert second.done == 64
    assert extract(second) == 36
    whole = FeatureFile(None, "key", "train", ROWS, extractor)
    extract(whole)
    np.testing.assert_array_equal(second.values, whole.values)


@pytest.mark.parametrize("damage", ["key", "state", "array", "shape"])
def test_features_of_another_training_and_damaged_files_are_computed_again(extractor, tmp_path, damage):
    extract(FeatureFile(tmp_path, "key", "train", ROWS, extractor))
    if damage == "state":
        (tmp_path / "train.json").write_text("{")
    elif damage == "array":
        (tmp_path / "train.npy").write_bytes(b"\x93NUMPY")
    rows = ROWS[:50] if damage == "shape" else ROWS
    file = FeatureFile(tmp_path, "other" if damage == "key" else "key", "train", rows, extractor)
    assert file.done == 0
    assert extract(file) == len(rows)
