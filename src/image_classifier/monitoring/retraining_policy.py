"""When to train again: on drift or after a while, and not too often."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from image_classifier.monitoring.drift_detection import DriftVerdict
from image_classifier.monitoring.drift_record import JudgedWindow
from image_classifier.registry import PROMOTED, REFUSED, RETRAINING, Event

_MOST_DOUBLINGS = 6


@dataclass(frozen=True)
class Rules:
    """What may start a training, and what keeps it from starting."""

    if_drifted: bool
    every: timedelta
    """The longest time between two trainings; 0: none is started by time alone."""
    pause: timedelta
    """The shortest time between two; doubled after each that was refused."""


@dataclass(frozen=True)
class Decision:
    """Whether to train again, and why, or why not."""

    start: bool
    reason: str


def decide(
    rules: Rules, events: Sequence[Event], newest: JudgedWindow | None, trained: datetime, now: datetime
) -> Decision:
    """Decide by the history, newest event first, and the newest window of the version that serves, made at `trained`.

    Drift counts where it was seen after the last retraining began: what was seen before has had its chance.
    """
    begun = [event for event in events if event.action == RETRAINING]
    last = begun[0].time if begun else None
    refused = refused_in_a_row(events)
    pause = rules.pause * 2 ** min(refused, _MOST_DOUBLINGS)
    wanted = _wanted(rules, newest, last, trained, now)
    if wanted is None:
        return Decision(False, "neither drift nor the schedule asks for it")
    if last is not None and now - last < pause:
        after = f", doubled after {refused} refused in a row" if refused else ""
        return Decision(
            False,
            f"{wanted}; but the last retraining began {in_words(now - last)} ago, and the next one may not before "
            f"{in_words(pause)} have passed{after}",
        )
    return Decision(True, wanted)


def _wanted(
    rules: Rules, newest: JudgedWindow | None, last: datetime | None, trained: datetime, now: datetime
) -> str | None:
    is_drift = rules.if_drifted and newest is not None and newest.verdict is DriftVerdict.DRIFT
    if is_drift and newest is not None and (last is None or newest.ended > last):
        return f"drift: {newest.reason}"
    age = now - max(trained, last or trained)
    if rules.every and age >= rules.every:
        return f"schedule: the last training was {in_words(age)} ago"
    return None


def refused_in_a_row(events: Sequence[Event]) -> int:
    """How many of the newest retrainings came to a refusal and none to a new champion; events are newest first."""
    refused, outcome = 0, None
    for event in events:
        if event.action == PROMOTED:
            break
        if event.action == REFUSED:
            outcome = REFUSED
        elif event.action == RETRAINING:
            refused += outcome == REFUSED
            outcome = None
    return refused


def in_words(duration: timedelta) -> str:
    """A duration to a unit that a person would take."""
    seconds = duration.total_seconds()
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
