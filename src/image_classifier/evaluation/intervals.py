"""Estimates, and confidence intervals of proportions."""

from dataclasses import dataclass

from scipy.stats import binomtest


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
