import numpy as np
import pytest
from scipy.stats import quantile_test

from image_classifier.package.timing import quantile_interval


@pytest.mark.parametrize(("quantile", "significance"), [(0.5, 0.01), (0.95, 0.025)])
def test_the_interval_of_a_quantile_is_scipys(quantile, significance):
    values = np.sort(np.random.default_rng(0).lognormal(size=200))
    expected = quantile_test(values, p=quantile).confidence_interval(1 - 2 * significance)
    assert quantile_interval(values, quantile, significance) == (expected.low, expected.high)


def test_the_interval_of_a_quantile_ends_at_the_largest_value():
    values = np.arange(20.0)
    assert quantile_interval(values, 0.95, 0.025)[1] == 19.0
