import numpy as np
import pytest

from image_classifier.comparison import (
    accuracy_difference,
    adjusted_for_many,
    calibration_difference,
    chance_of_loss,
)


def answers(right, count):
    """The first `right` of so many are right."""
    return np.arange(count) < right


def test_the_accuracy_interval_holds_the_true_difference_as_often_as_stated():
    """400 pairs of models with a true difference of 2 points; each bound may be missed in 5 % of them."""
    random = np.random.default_rng(0)
    below = above = 0
    for _ in range(400):
        difference = accuracy_difference(random.random(500) < 0.92, random.random(500) < 0.90, 0.05)
        below += difference.high < 0.02
        above += difference.low > 0.02
    assert max(below, above) <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5
    assert min(below, above) >= 400 * 0.05 - 3 * (400 * 0.05 * 0.95) ** 0.5


def test_equal_answers_differ_by_nothing():
    difference = accuracy_difference(answers(7, 10), answers(7, 10), 0.05)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert chance_of_loss(answers(7, 10), answers(7, 10)) == 1.0


@pytest.mark.parametrize(("lost", "chance"), [(1, 1 / 2), (5, 1 / 32), (10, 1 / 1024)])
def test_images_lost_and_none_gained_are_as_likely_as_so_many_heads(lost, chance):
    assert chance_of_loss(answers(50 - lost, 100), answers(50, 100)) == pytest.approx(chance)


def test_a_model_that_is_more_certain_than_right_is_seen_as_worse_calibrated():
    right = answers(900, 1000)
    honest, boastful = ((confidence - right)[:, np.newaxis] for confidence in (0.9, 1.0))
    difference = calibration_difference(boastful, honest, 0.0125)
    assert difference.value == pytest.approx(0.1)
    assert 0.05 < difference.low < 0.1 < difference.high < 0.15


def test_many_chances_are_adjusted_as_holm_has_it():
    # The example: 0.01 * 4, 0.02 * 3, 0.03 * 2, and 0.03 * 2 again for the last, which may not be below it.
    assert adjusted_for_many([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert adjusted_for_many([0.9, 0.8]) == [1.0, 1.0]
