"""Whether a new revision does worse than the one before on the same traffic, and how sure that is.

While traffic moves, each request goes to one of the two by chance. So within an interval of time whatever differs
between their answers, beyond chance, is of the revision: how the traffic changes from interval to interval does not
matter, nor how the shares of the two do. This is Fisher's exact test, over intervals: given how many answers of an
interval are, say, errors, how many of them are the new revision's is hypergeometric, and the sum over the intervals is
compared with what such sums are.

The comparison is looked at while it grows, at 100 answers and whenever they have doubled. Look number j may be wrong
with probability SIGNIFICANCE / (j (j + 1)), so all looks together with SIGNIFICANCE; the same goes for the three
figures at a look, and for the bounds and classes of one. So of 100 new revisions that are as good as the old one at
most one is called worse. What is surely but not much worse stays, too: each figure has a difference that matters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import hypergeom, norm

SIGNIFICANCE = 0.01
ENOUGH = 50
"""Answers of each revision below which nothing much can be told."""
_FIRST_LOOK = 100
_LEAST = 10
"""Answers of each below which no look is wasted on them."""
_FIGURES = 3
ERRORS_MATTER = 0.01
"""Rise of the share of errors."""
SLOWDOWN_MATTERS = 2.0
"""Ratio of the mean times …"""
SLOWER_MATTERS = 0.2
"""… and rise of the share that takes longer than some bound: a few very slow answers move the mean alone, and a small
slowdown across a bound of the histogram moves the share alone."""
CLASSES_MATTER = 0.25
"""Difference of the share of requests that get one class."""
_NORMAL_VARIANCE = 400.0
"""From here on the normal distribution stands in for the exact one, which takes long to compute then."""

Strata = Sequence[tuple[int, int, int, int]]
"""Of each interval: events and answers of the new revision, events and answers of the old one."""


@dataclass(frozen=True)
class AnswerCounts:
    """What a revision answered in some time. A request counts once, however many images it has."""

    answers: int = 0
    errors: int = 0
    """Answers with status 500 and above."""
    seconds: float = 0.0
    """All answers' times together."""
    within: Mapping[float, int] = field(default_factory=dict)
    """How many took at most so many seconds."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Requests by the class of their first image."""

    def __add__(self, other: "AnswerCounts") -> "AnswerCounts":
        return self._with(other, 1)

    def __sub__(self, other: "AnswerCounts") -> "AnswerCounts":
        return self._with(other, -1)

    def _with(self, other: "AnswerCounts", sign: int) -> "AnswerCounts":
        return AnswerCounts(
            self.answers + sign * other.answers,
            self.errors + sign * other.errors,
            self.seconds + sign * other.seconds,
            {
                bound: self.within.get(bound, 0) + sign * other.within.get(bound, 0)
                for bound in self.within.keys() | other.within.keys()
            },
            {
                name: self.classes.get(name, 0) + sign * other.classes.get(name, 0)
                for name in self.classes.keys() | other.classes.keys()
            },
        )


class RevisionComparison:
    """The counts of the new and the old revision, interval by interval, and what they tell."""

    def __init__(self, old_name: str) -> None:
        self._old_name = old_name
        self._intervals: list[tuple[AnswerCounts, AnswerCounts]] = []
        self._new = self._old = AnswerCounts()
        self._looks = 0
        self._next_look = _FIRST_LOOK

    @property
    def answers(self) -> tuple[int, int]:
        """Of the new and the old revision, in the intervals in which both answered."""
        return self._new.answers, self._old.answers

    def add(self, new: AnswerCounts, old: AnswerCounts) -> None:
        """Add an interval; one in which only one of the two answered tells nothing."""
        if new.answers and old.answers:
            self._intervals.append((new, old))
            self._new, self._old = self._new + new, self._old + old

    def look(self, *, last: bool = False) -> str:
        """In what the new revision is surely worse, in words; "" where that cannot be said (yet)."""
        if min(self.answers) < _LEAST or (sum(self.answers) < self._next_look and not last):
            return ""
        self._looks += 1
        self._next_look = 2 * sum(self.answers)
        level = SIGNIFICANCE / (self._looks * (self._looks + 1)) / _FIGURES
        return self._errors(level) or self._slowness(level) or self._classes(level)

    def summary(self) -> str:
        """What was seen, where it is not worse."""
        new, old = self._new, self._old
        if min(self.answers) < ENOUGH:
            return (
                f"not enough traffic to say: {new.answers} answers of it and {old.answers} of {self._old_name} at "
                f"the same time, of which {ENOUGH} each are needed"
            )
        return (
            f"not found worse than {self._old_name} in {new.answers} and {old.answers} answers: errors "
            f"{new.errors / new.answers:.1%} and {old.errors / old.answers:.1%}, in the mean "
            f"{1000 * new.seconds / new.answers:.1f} and {1000 * old.seconds / old.answers:.1f} ms"
        )

    def _errors(self, level: float) -> str:
        new, old = self._new.errors / self._new.answers, self._old.errors / self._old.answers
        if new - old < ERRORS_MATTER:
            return ""
        if (
            chance_of_as_many([(n.errors, n.answers, o.errors, o.answers) for n, o in self._intervals])
            > level
        ):
            return ""
        return (
            f"{new:.1%} of its answers are errors ({self._new.errors} of {self._new.answers}), of {self._old_name} "
            f"{old:.1%} ({self._old.errors} of {self._old.answers})"
        )

    def _slowness(self, level: float) -> str:
        new, old = self._new.seconds / self._new.answers, self._old.seconds / self._old.answers
        if new < SLOWDOWN_MATTERS * old:
            return ""
        bounds = sorted(self._new.within.keys() & self._old.within.keys())
        for bound in bounds:
            strata = [
                (n.answers - n.within[bound], n.answers, o.answers - o.within[bound], o.answers)
                for n, o in self._intervals
            ]
            if _difference(strata) >= SLOWER_MATTERS and chance_of_as_many(strata) <= level / len(bounds):
                return (
                    f"its answers take {1000 * new:.1f} ms in the mean, those of {self._old_name} "
                    f"{1000 * old:.1f} ms ({self._new.answers} and {self._old.answers} answers)"
                )
        return ""

    def _classes(self, level: float) -> str:
        names = self._new.classes.keys() | self._old.classes.keys()
        by_name = {name: self._strata_of(name) for name in sorted(names)}
        # What it answers more than before says more than what it answers less.
        for name, strata in sorted(by_name.items(), key=lambda item: -_difference(item[1])):
            difference = _difference(strata)
            if abs(difference) < CLASSES_MATTER:
                continue
            more = strata if difference > 0 else [(eo, no, en, nn) for en, nn, eo, no in strata]
            # Either of two sides, of any class.
            if chance_of_as_many(more) <= level / (2 * len(names)):
                shares = [_share(strata, 0), _share(strata, 2)]
                return (
                    f"it answers {name!r} to {shares[0]:.0%} of the requests, {self._old_name} to {shares[1]:.0%} "
                    f"({self._new.answers} and {self._old.answers} answers)"
                )
        return ""

    def _strata_of(self, name: str) -> Strata:
        """How often a class was answered."""
        return [
            (
                new.classes.get(name, 0),
                sum(new.classes.values()),
                old.classes.get(name, 0),
                sum(old.classes.values()),
            )
            for new, old in self._intervals
        ]


def chance_of_as_many(strata: Strata) -> float:
    """How likely the new revision gets at least as many of the events as it got, were they spread by chance."""
    # An interval with a single answer tells nothing, and would divide by zero.
    told = [row for row in strata if row[1] + row[3] > 1]
    seen = sum(new_events for new_events, _, _, _ in told)
    mean, variance = 0.0, 0.0
    for new_events, new, old_events, old in told:
        events, total = new_events + old_events, new + old
        mean += new * events / total
        variance += new * old * events * (total - events) / (total**2 * (total - 1))
    if variance > _NORMAL_VARIANCE:
        return float(norm.sf((seen - 0.5 - mean) / np.sqrt(variance)))
    least, chances = 0, np.ones(1)
    for new_events, new, old_events, old in told:
        events, total = new_events + old_events, new + old
        low, high = max(0, events - old), min(new, events)
        least += low
        chances = np.convolve(chances, hypergeom.pmf(np.arange(low, high + 1), total, events, new))
    return float(min(1.0, chances[seen - least :].sum()))


def _share(strata: Strata, first: int) -> float:
    return sum(row[first] for row in strata) / max(1, sum(row[first + 1] for row in strata))


def _difference(strata: Strata) -> float:
    """The share of events of the new revision less that of the old one."""
    return _share(strata, 0) - _share(strata, 2)
