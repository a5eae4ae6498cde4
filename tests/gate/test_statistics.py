from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from image_classifier.gate.statistics import (
    Scores,
    calibration_difference,
    calibration_interval,
    holm_adjusted,
    mean_estimate,
    probability_above,
    score_difference,
    score_p_value,
    skill_differences,
)
from tests.gate.simulated_models import ImageSet


def first_correct(correct, count):
    """The first `correct` of `count` predictions are correct."""
    return np.arange(count) < correct


def pair(gained, lost, count=200):
    """A candidate and a champion of which only one is correct for `gained` and `lost` images."""
    candidate, champion = np.ones((2, count), dtype=bool)
    champion[:gained] = False
    candidate[gained : gained + lost] = False
    return candidate, champion


def scores_of(evaluation):
    return Scores(evaluation.correct, np.array(evaluation.brier_scores))


def test_the_mean_difference_in_skill_is_the_difference_of_the_accuracies():
    """3 points between two models whose probabilities are calibrated; also the Brier scores alone show them."""
    images = ImageSet(np.random.default_rng(0), 100_000)
    candidate, champion = (scores_of(images.evaluate(accuracy, 0.8)) for accuracy in (0.92, 0.95))
    by_both = mean_estimate(skill_differences(candidate, champion))
    by_outcome = mean_estimate(skill_differences(replace(candidate, brier=None), champion))
    assert by_both.value == pytest.approx(-0.03, abs=0.002)
    assert by_outcome.value == pytest.approx(-0.03, abs=0.002)
    assert by_both.high - by_both.low < 0.85 * (by_outcome.high - by_outcome.low)


def test_models_without_errors_differ_in_nothing():
    perfect = Scores(np.ones(10, dtype=bool), np.zeros(10))
    assert np.all(skill_differences(perfect, perfect) == 0)


def test_the_probability_of_a_bound_is_a_half_at_the_mean_and_small_far_below_it():
    differences = np.array([-0.1, 0.0, 0.1, 0.2])
    assert probability_above(differences, 0.05) == pytest.approx(0.5)
    assert probability_above(differences, -1.0) == pytest.approx(1.0)
    assert probability_above(differences, 1.0) == pytest.approx(0.0)


def test_without_any_difference_nothing_speaks_for_either_side():
    assert probability_above(np.zeros(10), 0.0) == 0.5
    assert probability_above(np.zeros(10), -0.005) == 1.0
    assert probability_above(np.zeros(1), 0.005) == 0.0


def test_a_less_calibrated_model_has_a_positive_calibration_difference():
    correct = first_correct(900, 1000)
    calibrated, overconfident = ((confidence - correct)[:, np.newaxis] for confidence in (0.9, 1.0))
    difference = calibration_difference(overconfident, calibrated, 0.0125)
    assert difference.value == pytest.approx(0.1)
    assert 0.05 < difference.low <= difference.value < difference.high < 0.15


@pytest.mark.parametrize("drop", [0.0, 0.05])
@pytest.mark.parametrize(("gained", "lost"), [(0, 30), (3, 12), (20, 21), (40, 10), (7, 0), (0, 0), (0, 200)])
def test_the_score_interval_decides_as_the_score_test(gained, lost, drop):
    candidate, champion = pair(gained, lost)
    difference = score_difference(candidate, champion, 0.01)
    assert difference.value == pytest.approx((gained - lost) / 200)
    assert difference.low <= difference.value <= difference.high
    assert (difference.high < -drop) == (score_p_value(candidate, champion, drop) < 0.01)


def test_the_score_test_without_a_drop_is_mcnemars():
    assert score_p_value(*pair(10, 30), 0.0) == pytest.approx(norm.cdf((10 - 30) / 40**0.5))


@pytest.mark.parametrize("images", [36, 359, 2000])
def test_a_drop_of_exactly_the_margin_is_significant_at_most_at_the_stated_rate(images):
    random = np.random.default_rng(0)
    outcomes = random.choice(3, (2000, images), p=[0.83, 0.06, 0.11])  # both equal, gained, lost
    p_values = [score_p_value(row != 2, row != 1, 0.05) for row in outcomes]
    assert np.mean(np.array(p_values) < 0.05) <= 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


def test_the_calibration_interval_of_an_overconfident_model_misses_its_error_at_the_stated_rate():
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(200):
        deviations = (0.95 - (random.random(300) < 0.85))[:, np.newaxis]
        low, high = calibration_interval(deviations, 0.025)
        missed += not low <= 0.1 <= high
    assert missed <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_holm_adjusts_p_values_for_their_number():
    # 0.01 * 4, 0.02 * 3, 0.03 * 2, and 0.03 * 2 again for the last, which may not be below it.
    assert holm_adjusted([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm_adjusted([0.9, 0.8]) == [1.0, 1.0]
