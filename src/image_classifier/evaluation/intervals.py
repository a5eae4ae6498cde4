"""Confidence intervals of proportions and of quantiles."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, binomtest


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson 1927); 0 to 1 if there are no trials."""
    if trials == 0:
        return 0.0, 1.0
    # The null hypothesis does not affect the interval; with this one, scipy skips the search for the p-value.
    interval = binomtest(successes, trials, successes / trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def quantile_interval(values: npt.NDArray[np.float64], quantile: float, significance: float) -> tuple[float, float]:
    """Confidence interval of a quantile by order statistics; each bound is missed with probability `significance`.

    `values`, float64 [N], must be sorted. A bound beyond the smallest or largest value is that value.
    """
    low, high = binom.ppf([significance, 1 - significance], len(values), quantile).astype(int)
    return float(values[max(low - 1, 0)]), float(values[min(high, len(values) - 1)])
