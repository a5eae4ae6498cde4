"""Comparison of a new revision with the previous one on the same traffic, as a sequential test.

During a roll-out, each request is routed to one of the two at random. Within a time interval, any systematic difference
between their responses is therefore due to the revision, whatever the traffic and its split. The test is Fisher's exact
test, stratified by interval: given the number of, for example, errors in an interval, the number of them from the new
revision is hypergeometric, and the sum over the intervals is compared with the distribution of such sums.

Interim looks take place at 100 responses and whenever their number has doubled. Look number j spends
FALSE_ALARM_RATE / (j (j + 1)), so that all looks together spend FALSE_ALARM_RATE. Bonferroni corrections divide it
among the three metrics, and among the latency buckets or the classes. So at most 1 of 100 equally good revisions is
called worse. A significant difference must also exceed an effect size, so that a slightly worse revision stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import hypergeom, norm

FALSE_ALARM_RATE = 0.01
MIN_RESPONSES = 50
"""Of each revision; with fewer, the summary says that the traffic does not suffice."""
_FIRST_LOOK_RESPONSES = 100
_MIN_LOOK_RESPONSES = 10  # of each revision; a look at fewer would waste its share of the false alarm rate
_METRICS = 3  # errors, latency, classes
MIN_ERROR_RATE_RISE = 0.01
MIN_SLOWDOWN = 2.0
"""Ratio of the mean latencies; must be reached together with MIN_SLOW_SHARE_RISE."""
MIN_SLOW_SHARE_RISE = 0.2
"""Rise of the fraction of responses above a bucket of the latency histogram.

A few very slow responses change the mean alone, and a small slowdown across a bucket's bound the fraction alone.
"""
MIN_CLASS_SHARE_CHANGE = 0.25
_NORMAL_VARIANCE = 400.0  # above it, the normal approximation replaces the exact distribution, which takes long

Strata = Sequence[tuple[int, int, int, int]]
"""For each interval: events and responses of the new revision, events and responses of the old one."""


@dataclass(frozen=True)
class ResponseCounts:
    """The responses of a revision in some time. A request counts once, whatever its number of images."""

    responses: int = 0
    errors: int = 0
    """Responses with status 500 and above."""
    seconds: float = 0.0
    """Sum of the latencies."""
    buckets: Mapping[float, int] = field(default_factory=dict)
    """Latency histogram: number of responses within each upper bound in seconds."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Number of requests by the class predicted for their first image."""

    def __add__(self, other: "ResponseCounts") -> "ResponseCounts":
        return self._combine(other, 1)

    def __sub__(self, other: "ResponseCounts") -> "ResponseCounts":
        return self._combine(other, -1)

    def _combine(self, other: "ResponseCounts", sign: int) -> "ResponseCounts":
        def combined(mine: Mapping[Any, int], others: Mapping[Any, int]) -> dict[Any, int]:
            return {key: mine.get(key, 0) + sign * others.get(key, 0) for key in mine.keys() | others.keys()}

        return ResponseCounts(
            self.responses + sign * other.responses,
            self.errors + sign * other.errors,
            self.seconds + sign * other.seconds,
            combined(self.buckets, other.buckets),
            combined(self.classes, other.classes),
        )


class RevisionComparison:
    """Collects the counts of the new and the old revision by interval, and tests whether the new one is worse."""

    def __init__(self, old_name: str) -> None:
        """`old_name`: name of the old revision in messages."""
        self._old_name = old_name
        self._intervals: list[tuple[ResponseCounts, ResponseCounts]] = []
        self._new = self._old = ResponseCounts()
        self._looks = 0
        self._next_look = _FIRST_LOOK_RESPONSES

    @property
    def responses(self) -> tuple[int, int]:
        """Of the new and of the old revision, in the intervals in which both responded."""
        return self._new.responses, self._old.responses

    def add(self, new: ResponseCounts, old: ResponseCounts) -> None:
        """Add an interval; it is ignored if only one of the two responded."""
        if new.responses and old.responses:
            self._intervals.append((new, old))
            self._new, self._old = self._new + new, self._old + old

    def look(self, *, last: bool = False) -> str:
        """Take an interim look if one is due, or the `last` one; returns in what the new revision is worse, or ""."""
        is_due = last or sum(self.responses) >= self._next_look
        if not is_due or min(self.responses) < _MIN_LOOK_RESPONSES:
            return ""
        self._looks += 1
        self._next_look = 2 * sum(self.responses)
        significance = FALSE_ALARM_RATE / (self._looks * (self._looks + 1)) / _METRICS
        return (
            self._worse_errors(significance) or self._worse_latency(significance) or self._worse_classes(significance)
        )

    def summary(self) -> str:
        """The outcome if the new revision is not worse."""
        new, old = self._new, self._old
        if min(self.responses) < MIN_RESPONSES:
            return (
                f"not enough traffic to compare: {new.responses} responses, and {old.responses} from {self._old_name} "
                f"at the same time; at least {MIN_RESPONSES} of each are needed"
            )
        return (
            f"not significantly worse than {self._old_name}: error rate {_percent(new.errors, new.responses)} and "
            f"{_percent(old.errors, old.responses)}, mean latency {_mean_latency(new)} and {_mean_latency(old)} "
            f"({new.responses:,} and {old.responses:,} responses)"
        )

    def _worse_errors(self, significance: float) -> str:
        new, old = self._new, self._old
        if new.errors / new.responses - old.errors / old.responses < MIN_ERROR_RATE_RISE:
            return ""
        strata = [(n.errors, n.responses, o.errors, o.responses) for n, o in self._intervals]
        if stratified_p_value(strata) > significance:
            return ""
        return (
            f"error rate {_percent(new.errors, new.responses)} ({new.errors:,} of {new.responses:,} responses), "
            f"compared with {_percent(old.errors, old.responses)} ({old.errors:,} of {old.responses:,}) for "
            f"{self._old_name}"
        )

    def _worse_latency(self, significance: float) -> str:
        new, old = self._new, self._old
        if new.seconds / new.responses < MIN_SLOWDOWN * (old.seconds / old.responses):
            return ""
        bounds = sorted(new.buckets.keys() & old.buckets.keys())
        significance /= max(1, len(bounds))
        for bound in bounds:
            strata = [
                (n.responses - n.buckets[bound], n.responses, o.responses - o.buckets[bound], o.responses)
                for n, o in self._intervals
            ]
            if _share_difference(strata) >= MIN_SLOW_SHARE_RISE and stratified_p_value(strata) <= significance:
                return (
                    f"mean latency {_mean_latency(new)}, compared with {_mean_latency(old)} for {self._old_name} "
                    f"({new.responses:,} and {old.responses:,} responses)"
                )
        return ""

    def _worse_classes(self, significance: float) -> str:
        names = self._new.classes.keys() | self._old.classes.keys()
        by_name = {name: self._class_strata(name) for name in sorted(names)}
        # A class that became more frequent explains a change better than one that became rarer.
        for name, strata in sorted(by_name.items(), key=lambda item: -_share_difference(item[1])):
            difference = _share_difference(strata)
            if abs(difference) < MIN_CLASS_SHARE_CHANGE:
                continue
            one_sided = strata if difference > 0 else [(eo, no, en, nn) for en, nn, eo, no in strata]
            # Two-sided, for any class.
            if stratified_p_value(one_sided) <= significance / (2 * len(names)):
                new, old = (100 * _share(strata, first) for first in (0, 2))
                return (
                    f"class {name!r} predicted for {new:.0f} % of the requests, compared with {old:.0f} % for "
                    f"{self._old_name} ({self._new.responses:,} and {self._old.responses:,} responses)"
                )
        return ""

    def _class_strata(self, name: str) -> Strata:
        return [
            (new.classes.get(name, 0), sum(new.classes.values()), old.classes.get(name, 0), sum(old.classes.values()))
            for new, old in self._intervals
        ]


def stratified_p_value(strata: Strata) -> float:
    """One-sided p-value of the stratified exact test: whether the new revision has more events than by chance."""
    # An interval with a single response has no information, and would divide by zero.
    strata = [row for row in strata if row[1] + row[3] > 1]
    observed = sum(new_events for new_events, _, _, _ in strata)
    mean, variance = 0.0, 0.0
    for new_events, new, old_events, old in strata:
        events, total = new_events + old_events, new + old
        mean += new * events / total
        variance += new * old * events * (total - events) / (total**2 * (total - 1))
    if variance > _NORMAL_VARIANCE:
        return float(norm.sf((observed - 0.5 - mean) / np.sqrt(variance)))
    smallest, probabilities = 0, np.ones(1)
    for new_events, new, old_events, old in strata:
        events, total = new_events + old_events, new + old
        low, high = max(0, events - old), min(new, events)
        smallest += low
        probabilities = np.convolve(probabilities, hypergeom.pmf(np.arange(low, high + 1), total, events, new))
    return float(min(1.0, probabilities[observed - smallest :].sum()))


def _share(strata: Strata, first: int) -> float:
    return sum(row[first] for row in strata) / max(1, sum(row[first + 1] for row in strata))


def _share_difference(strata: Strata) -> float:
    """The fraction of events of the new revision minus that of the old one."""
    return _share(strata, 0) - _share(strata, 2)


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %"


def _mean_latency(counts: ResponseCounts) -> str:
    return f"{1000 * counts.seconds / counts.responses:.1f} ms"
