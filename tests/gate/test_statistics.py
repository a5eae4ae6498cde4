import numpy as np
import pytest
from scipy.stats import binomtest, norm

from image_classifier.gate.statistics import (
    bootstrap_difference,
    calibration_difference,
    calibration_interval,
    exact_difference,
    holm_adjusted,
    score_difference,
    score_p_value,
)


def first_correct(correct, count):
    """The first `correct` of `count` predictions are correct."""
    return np.arange(count) < correct


def pair(gained, lost, count=200):
    """A candidate and a champion of which only one is correct for `gained` and `lost` images."""
    candidate, champion = np.ones((2, count), dtype=bool)
    champion[:gained] = False
    candidate[gained : gained + lost] = False
    return candidate, champion


def mcnemar(gained, lost):
    """P-value of McNemar's exact test, one-sided: the candidate is no worse."""
    return binomtest(lost, gained + lost, alternative="greater").pvalue if gained + lost else 1.0


def test_the_bootstrap_interval_misses_the_true_difference_at_the_stated_rate():
    """400 pairs of models with a true difference of 2 points; each bound may be missed in 5 % of them."""
    random = np.random.default_rng(0)
    below = above = 0
    for _ in range(400):
        difference = bootstrap_difference(random.random(500) < 0.92, random.random(500) < 0.90, 0.05)
        below += difference.high < 0.02
        above += difference.low > 0.02
    assert max(below, above) <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5
    assert min(below, above) >= 400 * 0.05 - 3 * (400 * 0.05 * 0.95) ** 0.5


def test_the_bootstrap_interval_of_equal_predictions_is_0():
    difference = bootstrap_difference(first_correct(7, 10), first_correct(7, 10), 0.05)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_a_less_calibrated_model_has_a_positive_calibration_difference():
    correct = first_correct(900, 1000)
    calibrated, overconfident = ((confidence - correct)[:, np.newaxis] for confidence in (0.9, 1.0))
    difference = calibration_difference(overconfident, calibrated, 0.0125)
    assert difference.value == pytest.approx(0.1)
    assert 0.05 < difference.low <= difference.value < difference.high < 0.15


@pytest.mark.parametrize("significance", [0.05, 0.005])
@pytest.mark.parametrize(("gained", "lost"), [(0, 5), (3, 12), (20, 21), (40, 10), (7, 0), (0, 0)])
def test_the_exact_interval_decides_as_mcnemars_exact_test(gained, lost, significance):
    difference = exact_difference(*pair(gained, lost), significance)
    assert difference.value == pytest.approx((gained - lost) / 200)
    assert difference.low <= difference.value <= difference.high
    assert (difference.high < 0) == (mcnemar(gained, lost) < significance)
    assert (difference.low > 0) == (mcnemar(lost, gained) < significance)


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


def test_the_exact_interval_misses_the_true_difference_at_most_at_the_stated_rate():
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(400):
        difference = exact_difference(random.random(500) < 0.92, random.random(500) < 0.90, 0.05)
        missed += not difference.low <= 0.02 <= difference.high
    assert missed <= 400 * 0.1 + 3 * (400 * 0.1 * 0.9) ** 0.5


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
