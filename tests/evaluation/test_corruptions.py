import numpy as np
import pytest

from image_classifier.evaluation.corruptions import CORRUPTIONS


def photos(count=6, side=32):
    """Smooth coloured images with an edge, uint8 [N, S, S, 3]."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    images = np.empty((count, side, side, 3), np.uint8)
    for image in images:
        level, tilt = random.uniform(60, 160, 3), random.uniform(-60, 60, (3, 2))
        image[:] = np.clip(
            level + rows[..., np.newaxis] * tilt[:, 0] + columns[..., np.newaxis] * tilt[:, 1], 0, 255
        )
        top, left = random.integers(side // 8, side // 2, 2)
        image[top : top + side // 3, left : left + side // 3] = random.integers(0, 256, 3)
    return images


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_a_corruption_changes_an_image_and_leaves_it_recognisable(corruption):
    images = photos()
    corrupted = corruption.of(images)
    assert (corrupted.shape, corrupted.dtype) == (images.shape, np.uint8)
    for before, after in zip(images.astype(float), corrupted.astype(float), strict=True):
        assert not np.array_equal(before, after)
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.5


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_an_image_is_treated_the_same_however_many_follow_it(corruption):
    images = photos()
    assert np.array_equal(corruption.of(images)[:2], corruption.of(images[:2]))


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
@pytest.mark.parametrize("side", [8, 28])
def test_grey_images_stay_grey_and_small_ones_are_possible(corruption, side):
    grey = np.repeat(photos(side=side)[..., :1], 3, axis=3)
    corrupted = corruption.of(grey)
    assert np.array_equal(corrupted[..., 0], corrupted[..., 1])
    assert np.array_equal(corrupted[..., 0], corrupted[..., 2])


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_plain_images_are_possible(corruption):
    plain = np.full((3, 16, 16, 3), 255, np.uint8)
    assert corruption.of(plain).shape == plain.shape


def test_names_are_distinct_and_can_name_a_metric():
    names = [corruption.name for corruption in CORRUPTIONS]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzJPEG0123456789. ") for name in names)
