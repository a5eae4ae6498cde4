import numpy as np
import pytest
from scipy.stats import quantile_test

from image_classifier.evaluation.intervals import quantile_interval, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Reference values: R's prop.test(..., correct = FALSE).
    [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],
)
def test_the_interval_of_a_proportion_is_wilsons(successes, trials, low, high):
    assert wilson_interval(successes, trials) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_without_trials_a_proportion_may_be_anything():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("quantile", "significance"), [(0.5, 0.01), (0.95, 0.025)])
def test_the_interval_of_a_quantile_is_scipys(quantile, significance):
    values = np.sort(np.random.default_rng(0).lognormal(size=200))
    expected = quantile_test(values, p=quantile).confidence_interval(1 - 2 * significance)
    assert quantile_interval(values, quantile, significance) == (expected.low, expected.high)


def test_the_interval_of_a_quantile_ends_at_the_largest_value():
    values = np.arange(20.0)
    assert quantile_interval(values, 0.95, 0.025)[1] == 19.0
