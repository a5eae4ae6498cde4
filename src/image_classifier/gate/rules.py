"""Rules of the gate: thresholds, results, and how a measured value and its interval decide."""

from dataclasses import dataclass
from enum import StrEnum

from image_classifier.evaluation import Estimate

AT_LEAST, AT_MOST = "at least", "at most"
SHARE, POINTS, ERROR, SECONDS, TIMES = "share", "points", "error", "seconds", "times"
"""Units: a fraction of images, a difference of two fractions, a calibration error, seconds, a ratio."""


class Policy(StrEnum):
    """How eager the gate is to replace the champion, as the setting `gate_policy` says."""

    IMPROVE = "improve"
    """Accept only a candidate that is better with a probability of 95 %."""
    NOT_WORSE = "not-worse"
    """Accept a candidate that is more likely within `max_accuracy_drop` of the champion than not."""
    REFRESH = "refresh"
    """Accept unless the candidate is worse by more than `max_accuracy_drop` with a probability of 80 %."""

    @property
    def required_probability(self) -> float:
        """Probability of the accuracy that is wanted, from which a candidate is accepted."""
        return _REQUIRED_PROBABILITY[self]

    def tolerated_drop(self, max_accuracy_drop: float) -> float:
        """The drop in accuracy that the policy allows."""
        return 0.0 if self is Policy.IMPROVE else max_accuracy_drop


_REQUIRED_PROBABILITY = {Policy.IMPROVE: 0.95, Policy.NOT_WORSE: 0.5, Policy.REFRESH: 0.2}


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the rules, from the settings of the same names."""

    min_accuracy: float
    min_recall: float | str
    """A fraction, or `auto`: see `absolute_checks`."""
    min_robustness: float
    max_calibration_error: float
    max_latency: float
    """Seconds."""
    max_duplicates: float
    gate_policy: str
    """A value of `Policy`."""
    max_accuracy_drop: float
    max_recall_drop: float
    max_robustness_drop: float
    max_latency_ratio: float


class RuleOutcome(StrEnum):
    """Outcome of a rule."""

    PASS = "pass"  # noqa: S105 (not a password)
    FAIL = "fail"
    """The candidate is refused."""
    UNDECIDED = "not enough evidence"
    """The candidate is held."""
    NOT_MEASURED = "not measured"
    """The rule says nothing."""


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
        """The reason, with a note if the rule neither passed nor failed."""
        is_open = self.outcome in (RuleOutcome.UNDECIDED, RuleOutcome.NOT_MEASURED)
        return f"{self.reason}: {self.outcome}" if is_open else self.reason


def decide_by_value(measured: float, threshold: float, bound: str = AT_LEAST) -> RuleOutcome:
    """For absolute checks: fail if the measured value misses the threshold."""
    sign = 1 if bound == AT_LEAST else -1
    return RuleOutcome.FAIL if sign * measured < sign * threshold else RuleOutcome.PASS


def decide_by_interval(low: float, high: float, threshold: float, bound: str = AT_LEAST) -> RuleOutcome:
    """For guards: fail if the whole interval of a comparison misses the threshold, a significant loss."""
    misses = high < threshold if bound == AT_LEAST else low > threshold
    return RuleOutcome.FAIL if misses else RuleOutcome.PASS
