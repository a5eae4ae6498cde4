import numpy as np
import pytest
from scipy.stats import norm

from image_classifier.gate.statistics import (
    accuracy_difference,
    adjusted_for_many,
    calibration_difference,
    calibration_interval,
    chance_of_drop,
    chance_of_loss,
    paired_difference,
    score_difference,
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
    assert 0.05 < difference.low <= difference.value < difference.high < 0.15


@pytest.mark.parametrize("significance", [0.05, 0.005])
@pytest.mark.parametrize(("gained", "lost"), [(0, 5), (3, 12), (20, 21), (40, 10), (7, 0), (0, 0)])
def test_the_paired_interval_decides_as_mcnemars_exact_test_does(gained, lost, significance):
    candidate, champion = np.ones((2, 200), dtype=bool)
    champion[:gained] = False
    candidate[gained : gained + lost] = False
    difference = paired_difference(candidate, champion, significance)
    assert difference.value == pytest.approx((gained - lost) / 200)
    assert difference.low <= difference.value <= difference.high
    assert (difference.high < 0) == (chance_of_loss(candidate, champion) < significance)
    assert (difference.low > 0) == (chance_of_loss(champion, candidate) < significance)


@pytest.mark.parametrize("drop", [0.0, 0.05])
@pytest.mark.parametrize(("gained", "lost"), [(0, 30), (3, 12), (20, 21), (40, 10), (7, 0), (0, 0), (0, 200)])
def test_the_score_interval_decides_as_its_test_does(gained, lost, drop):
    candidate, champion = np.ones((2, 200), dtype=bool)
    champion[:gained] = False
    candidate[gained : gained + lost] = False
    difference = score_difference(candidate, champion, 0.01)
    assert difference.value == pytest.approx((gained - lost) / 200)
    assert difference.low <= difference.value <= difference.high
    assert (difference.high < -drop) == (chance_of_drop(candidate, champion, drop) < 0.01)


def test_without_a_drop_the_score_test_is_mcnemars():
    candidate, champion = np.ones((2, 200), dtype=bool)
    champion[:10] = False
    candidate[10:40] = False
    assert chance_of_drop(candidate, champion, 0.0) == pytest.approx(norm.cdf((10 - 30) / 40**0.5))


@pytest.mark.parametrize("images", [36, 359, 2000])
def test_a_drop_that_is_just_allowed_is_refused_no_more_often_than_stated(images):
    random = np.random.default_rng(0)
    outcomes = random.choice(3, (2000, images), p=[0.83, 0.06, 0.11])  # both alike, gained, lost
    chances = [chance_of_drop(row != 2, row != 1, 0.05) for row in outcomes]
    assert np.mean(np.array(chances) < 0.05) <= 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


def test_the_paired_interval_holds_the_true_difference_as_often_as_stated():
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(400):
        difference = paired_difference(random.random(500) < 0.92, random.random(500) < 0.90, 0.05)
        missed += not difference.low <= 0.02 <= difference.high
    assert missed <= 400 * 0.1 + 3 * (400 * 0.1 * 0.9) ** 0.5


def test_the_calibration_interval_holds_the_error_of_a_model_that_is_too_certain():
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(200):
        deviations = (0.95 - (random.random(300) < 0.85))[:, np.newaxis]
        low, high = calibration_interval(deviations, 0.025)
        missed += not low <= 0.1 <= high
    assert missed <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_many_chances_are_adjusted_as_holm_has_it():
    # The example: 0.01 * 4, 0.02 * 3, 0.03 * 2, and 0.03 * 2 again for the last, which may not be below it.
    assert adjusted_for_many([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert adjusted_for_many([0.9, 0.8]) == [1.0, 1.0]
