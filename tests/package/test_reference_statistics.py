"""What is told of an image by numbers, and the bins of a reference."""

import numpy as np
import pytest

from image_classifier.package.reference_statistics import (
    CLASS,
    CONFIDENCE,
    IMAGE_STATISTICS,
    SIZE,
    image_statistics,
    place_in,
    reference_statistics,
)


def images_of(count, seed=0, side=16):
    random = np.random.default_rng(seed)
    plain = random.integers(60, 200, (count, 1, 1, 3))
    return np.clip(plain + random.normal(0, 20, (count, side, side, 3)), 0, 255).astype(np.uint8)


def answers_of(count, classes=4, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), count).astype(np.float32)


def told(image):
    return dict(zip(IMAGE_STATISTICS, image_statistics(image), strict=True))


def test_the_statistics_are_what_their_words_say():
    image = images_of(1)[0]
    numbers = image.astype(np.float64) / 255
    down, across = np.abs(np.diff(numbers, axis=0)).mean(), np.abs(np.diff(numbers, axis=1)).mean()
    expected = {
        "brightness": numbers.mean(),
        "contrast": numbers.std(),
        "sharpness": (down + across) / 2,
        "direction": across / (down + across),
        "warmth": numbers[..., 0].mean() - numbers[..., 2].mean(),
    }
    assert told(image) == pytest.approx(expected, rel=1e-4)


def test_a_plain_image_has_statistics_too():
    plain = np.full((8, 8, 3), 51, np.uint8)
    assert told(plain) == pytest.approx(
        {"brightness": 0.2, "contrast": 0, "sharpness": 0, "direction": 0.5, "warmth": 0}, abs=1e-6
    )


def test_of_a_large_image_the_middle_is_looked_at():
    image = np.zeros((224, 224, 3), np.uint8)
    image[80:144, 80:144] = images_of(1, side=64)[0]
    assert told(image) == told(images_of(1, side=64)[0])


def test_turning_an_image_by_a_quarter_turns_its_direction_and_nothing_else():
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    upright, turned = told(stripes), told(np.ascontiguousarray(np.rot90(stripes)))
    assert (upright.pop("direction"), turned.pop("direction")) == (1, 0)
    assert upright == pytest.approx(turned)


def test_every_image_and_answer_of_a_reference_is_in_one_bin_of_about_a_tenth():
    reference = reference_statistics(images_of(400), None, answers_of(100))
    assert reference["images"] == 400
    assert set(reference["features"]) == {*IMAGE_STATISTICS, CONFIDENCE, CLASS}
    for name in IMAGE_STATISTICS:
        feature = reference["features"][name]
        assert sum(feature["counts"]) == 400
        assert len(feature["counts"]) == len(feature["edges"]) + 1
        assert max(feature["counts"]) <= 50
    assert sum(reference["features"][CONFIDENCE]["counts"]) == 100
    assert sum(reference["features"][CLASS]["counts"]) == 100


def test_a_value_that_all_images_share_has_a_bin_of_its_own():
    originals = np.tile(np.array([[640, 480, 1]], np.int32), (50, 1))
    feature = reference_statistics(images_of(50), originals, answers_of(50))["features"][SIZE]
    assert feature["counts"] == [0, 50, 0]
    assert [place_in(feature["edges"], side) for side in (479, 480, 481)] == [0, 1, 2]


def test_grey_images_are_told_from_those_with_the_least_colour():
    grey = np.repeat(images_of(60)[..., :1], 3, axis=3)
    edges = reference_statistics(grey, None, answers_of(60))["features"]["warmth"]["edges"]
    coloured = grey[0].copy()
    coloured[0, 0, 0] ^= 1
    assert place_in(edges, told(grey[1])["warmth"]) == 1
    assert place_in(edges, told(coloured)["warmth"]) != 1
