import numpy as np
import pytest

from image_classifier.evaluation.corruptions import CORRUPTIONS


def photos(count=6, side=32):
    """Smooth color images with an edge, uint8 [N, S, S, 3]."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    images = np.empty((count, side, side, 3), np.uint8)
    for image in images:
        level, tilt = random.uniform(60, 160, 3), random.uniform(-60, 60, (3, 2))
        image[:] = np.clip(level + rows[..., np.newaxis] * tilt[:, 0] + columns[..., np.newaxis] * tilt[:, 1], 0, 255)
        top, left = random.integers(side // 8, side // 2, 2)
        image[top : top + side // 3, left : left + side // 3] = random.integers(0, 256, 3)
    return images


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_a_corruption_changes_every_image_and_leaves_it_recognizable(corruption):
    images = photos()
    corrupted = corruption.apply(images)
    assert (corrupted.shape, corrupted.dtype) == (images.shape, np.uint8)
    for before, after in zip(images.astype(float), corrupted.astype(float), strict=True):
        assert not np.array_equal(before, after)
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.5


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_the_result_for_an_image_does_not_depend_on_later_images(corruption):
    images = photos()
    assert np.array_equal(corruption.apply(images)[:2], corruption.apply(images[:2]))


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_photos_are_corrupted_a_few_at_a_time_with_the_same_result(corruption):
    images, rows = photos(side=280), np.array([4, 0, 5, 1])
    batches = list(corruption.batches(images, rows))
    assert [len(batch) for batch in batches] == [3, 1]
    assert np.array_equal(np.concatenate(batches), corruption.apply(images[rows]))


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
@pytest.mark.parametrize("side", [8, 28])
def test_grayscale_images_stay_grayscale_at_any_size(corruption, side):
    gray = np.repeat(photos(side=side)[..., :1], 3, axis=3)
    corrupted = corruption.apply(gray)
    assert np.array_equal(corrupted[..., 0], corrupted[..., 1])
    assert np.array_equal(corrupted[..., 0], corrupted[..., 2])


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_single_color_images_are_accepted(corruption):
    white = np.full((3, 16, 16, 3), 255, np.uint8)
    assert corruption.apply(white).shape == white.shape


def test_names_are_unique_and_valid_in_metric_names():
    names = [corruption.name for corruption in CORRUPTIONS]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzJPEG0123456789. ") for name in names)
