"""What a rule of the gate found, and how a measured figure and its interval become an outcome."""

from dataclasses import dataclass
from enum import StrEnum

AT_LEAST, AT_MOST = "at least", "at most"
SHARE, POINTS, ERROR, SECONDS, TIMES = "share", "points", "error", "seconds", "times"
"""Units: a share of images, a difference of two shares, a calibration error, seconds, a ratio."""


class RuleOutcome(StrEnum):
    """What a rule says."""

    PASS = "pass"  # noqa: S105 (no password)
    FAIL = "fail"
    UNDECIDED = "not enough evidence"


@dataclass(frozen=True)
class RuleResult:
    """What a rule found, and the sentence that says so; figures are None where a rule has none."""

    rule: str
    outcome: RuleOutcome
    reason: str
    measured: float | None = None
    low: float | None = None
    """With `high` the interval of the measured figure."""
    high: float | None = None
    threshold: float | None = None
    bound: str = AT_LEAST
    """Whether the threshold is the lowest or the highest that passes."""
    unit: str = SHARE

    @property
    def in_words(self) -> str:
        """The reason, with a word on how sure it is where that is needed."""
        return f"{self.reason}, {self.outcome}" if self.outcome is RuleOutcome.UNDECIDED else self.reason


def by_measured(
    measured: float, interval: tuple[float, float] | None, threshold: float, bound: str = AT_LEAST
) -> RuleOutcome:
    """For a floor: fails where the figure itself misses the threshold, and passes where its interval reaches it."""
    sign = 1 if bound == AT_LEAST else -1
    if sign * measured < sign * threshold:
        return RuleOutcome.FAIL
    if interval is not None and min(sign * end for end in interval) < sign * threshold:
        return RuleOutcome.UNDECIDED
    return RuleOutcome.PASS


def by_interval(low: float, high: float, threshold: float, bound: str = AT_LEAST) -> RuleOutcome:
    """For a comparison: fails where the figure surely misses the threshold, and passes where it surely reaches it."""
    worst, best = (low, high) if bound == AT_LEAST else (-high, -low)
    limit = threshold if bound == AT_LEAST else -threshold
    if best < limit:
        return RuleOutcome.FAIL
    return RuleOutcome.UNDECIDED if worst < limit else RuleOutcome.PASS
