"""The retraining policy: train again on drift or on a schedule, with a backoff while candidates are refused or held."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from image_classifier.monitoring.drift_detection import DriftVerdict
from image_classifier.monitoring.drift_record import DriftWindow
from image_classifier.registry import HELD, PROMOTED, REFUSED, RETRAINING, Event
from image_classifier.text import counted

_MAX_DOUBLINGS = 6


@dataclass(frozen=True)
class RetrainingPolicy:
    """What triggers a retraining, and how often."""

    if_drifted: bool
    every: timedelta
    """Maximum time between two trainings; 0 for no schedule."""
    pause: timedelta
    """Minimum time between two retrainings; doubled after each refused or held candidate."""


@dataclass(frozen=True)
class RetrainingDecision:
    """Whether to start a retraining, and why or why not."""

    start: bool
    reason: str


def decide_retraining(
    policy: RetrainingPolicy, events: Sequence[Event], newest: DriftWindow | None, trained: datetime, now: datetime
) -> RetrainingDecision:
    """Decide whether to start a retraining.

    events: the history, newest first; newest: the newest drift window of the live version, which was trained at
    `trained`. Drift triggers a retraining only if it was detected after the last retraining started.
    """
    starts = [event.time for event in events if event.action == RETRAINING]
    last = starts[0] if starts else None
    refusals = consecutive_refusals(events)
    pause = policy.pause * 2 ** min(refusals, _MAX_DOUBLINGS)
    trigger = _trigger(policy, newest, last, trained, now)
    if trigger is None:
        return RetrainingDecision(False, "neither drift nor the schedule requires a retraining")
    if last is not None and now - last < pause:
        backoff = f" (backoff after {counted(refusals, 'rejected candidate')})" if refusals else ""
        return RetrainingDecision(
            False,
            f"{trigger}; but the last retraining started {describe_duration(now - last)} ago, within the pause of "
            f"{describe_duration(pause)}{backoff}",
        )
    return RetrainingDecision(True, trigger)


def _trigger(
    policy: RetrainingPolicy, newest: DriftWindow | None, last: datetime | None, trained: datetime, now: datetime
) -> str | None:
    is_drift = policy.if_drifted and newest is not None and newest.verdict is DriftVerdict.DRIFT
    if is_drift and newest is not None and (last is None or newest.ended > last):
        return f"drift: {newest.reason}"
    age = now - max(trained, last or trained)
    if policy.every and age >= policy.every:
        return f"schedule: the last training was {describe_duration(age)} ago"
    return None


def consecutive_refusals(events: Sequence[Event]) -> int:
    """Number of retrainings since the last promotion whose candidate was refused or held; `events` are newest first."""
    refusals, is_refused = 0, False
    for event in events:
        if event.action == PROMOTED:
            break
        if event.action in (HELD, REFUSED):
            is_refused = True
        elif event.action == RETRAINING:
            refusals += is_refused
            is_refused = False
    return refusals


def describe_duration(duration: timedelta) -> str:
    """A duration in its largest unit of which there are at least two, rounded: "36 hours", "2 days"."""
    seconds = duration.total_seconds()
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
