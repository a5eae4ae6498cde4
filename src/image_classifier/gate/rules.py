"""Rules of the gate: thresholds, results, and how a measured value and its interval decide."""

from dataclasses import dataclass
from enum import StrEnum

from image_classifier.evaluation import Estimate

AT_LEAST, AT_MOST = "at least", "at most"
SHARE, POINTS, ERROR, SECONDS, TIMES = "share", "points", "error", "seconds", "times"
"""Units: a fraction of images, a difference of two fractions, a calibration error, seconds, a ratio."""


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the rules, from the settings of the same names."""

    min_accuracy: float
    min_recall: float
    min_robustness: float
    max_calibration_error: float
    max_latency: float
    """Seconds."""
    max_duplicates: float
    max_accuracy_drop: float
    max_recall_drop: float
    max_robustness_drop: float
    max_latency_ratio: float


class RuleOutcome(StrEnum):
    """Outcome of a rule."""

    PASS = "pass"  # noqa: S105 (not a password)
    FAIL = "fail"
    UNDECIDED = "not enough evidence"


@dataclass(frozen=True)
class RuleResult:
    """Result of a rule, with the sentence for people; numbers are None if the rule has none."""

    rule: str
    outcome: RuleOutcome
    reason: str
    measured: float | None = None
    low: float | None = None
    """With `high`, the interval of the measured value."""
    high: float | None = None
    threshold: float | None = None
    bound: str = AT_LEAST
    """Whether the threshold is a minimum or a maximum."""
    unit: str = SHARE

    @classmethod
    def of(
        cls,
        rule: str,
        outcome: RuleOutcome,
        reason: str,
        estimate: Estimate,
        threshold: float,
        bound: str = AT_LEAST,
        unit: str = SHARE,
    ) -> "RuleResult":
        """The result of a rule whose measured value has an interval."""
        return cls(rule, outcome, reason, estimate.value, estimate.low, estimate.high, threshold, bound, unit)

    @property
    def sentence(self) -> str:
        """The reason, with a note if there is not enough evidence."""
        return f"{self.reason}: {self.outcome}" if self.outcome is RuleOutcome.UNDECIDED else self.reason


def decide_by_value(
    measured: float, interval: tuple[float, float] | None, threshold: float, bound: str = AT_LEAST
) -> RuleOutcome:
    """For absolute checks: fail if the measured value misses the threshold, pass if the whole interval reaches it."""
    sign = 1 if bound == AT_LEAST else -1
    if sign * measured < sign * threshold:
        return RuleOutcome.FAIL
    if interval is not None and min(sign * end for end in interval) < sign * threshold:
        return RuleOutcome.UNDECIDED
    return RuleOutcome.PASS


def decide_by_interval(low: float, high: float, threshold: float, bound: str = AT_LEAST) -> RuleOutcome:
    """For comparisons: fail if the whole interval misses the threshold, pass if the whole interval reaches it."""
    worst, best = (low, high) if bound == AT_LEAST else (-high, -low)
    limit = threshold if bound == AT_LEAST else -threshold
    if best < limit:
        return RuleOutcome.FAIL
    return RuleOutcome.UNDECIDED if worst < limit else RuleOutcome.PASS
