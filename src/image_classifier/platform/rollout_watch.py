"""Watch a roll-out: compare the new revision with the one before while traffic moves to it."""

import time
from dataclasses import dataclass

from image_classifier.errors import ForbiddenError
from image_classifier.monitoring import RevisionComparison
from image_classifier.platform.cluster import Cluster
from image_classifier.platform.pod_metrics import CounterIncrements, ServedPair, read_pod_counts
from image_classifier.platform.workload_rollback import accepted_runs, pair_before
from image_classifier.registry import ROLLED_BACK, WATCHED, Registry, last_change, withdrawal
from image_classifier.text import Report

_READ_INTERVAL_SECONDS = 2.0
_MOVED_SECONDS = 10.0  # all traffic has moved if the old revision got requests before, and none for this time
_CHANGE_CHECK_SECONDS = 10.0  # interval between checks whether someone changed what is live


@dataclass(frozen=True)
class RolloutObservation:
    """How a watch ended."""

    reason: str
    worse: bool = False
    before: int | None = None  # version of the revision that it was compared with; None if there was no comparison


def watch_rollout(
    registry: Registry, cluster: Cluster, service: str, pair: ServedPair, *, seconds: float, report: Report
) -> RolloutObservation:
    """Compare the revision of `pair` with the one before until it is worse, all traffic has moved, or time is up.

    Ends early if there is nothing to compare, or someone changes what is live. Raises ForbiddenError if the namespace
    does not allow it to read pods.
    """
    try:
        before = _pair_to_compare(registry, cluster, service, pair)
        if isinstance(before, str):
            return RolloutObservation(before)
        name = _name_of(before, pair)
        report(f"watching version {pair[0]} and comparing it with {name} for up to {seconds:g} s")
        return _compare(registry, cluster, service, pair, before, RevisionComparison(name), seconds)
    except ForbiddenError as error:
        raise ForbiddenError(
            f"cannot watch this roll-out: {error}; to allow it, an operator binds the Role image-classifier-watch "
            "(docs/platform-operator.md)"
        ) from error


def _compare(
    registry: Registry,
    cluster: Cluster,
    service: str,
    pair: ServedPair,
    before: ServedPair,
    comparison: RevisionComparison,
    seconds: float,
) -> RolloutObservation:
    increments = CounterIncrements()
    checked = time.monotonic()
    end = checked + seconds
    moved = 0.0
    while time.monotonic() < end and moved < _MOVED_SECONDS:
        grown = increments.since_last(read_pod_counts(cluster, service))
        new = grown.pop(pair, None)
        old = grown.pop(before, None)
        if new is not None and old is not None:
            comparison.add(new, old)
        if worse := comparison.look():
            return RolloutObservation(worse, worse=True, before=before[0])
        only_new_answers = new is not None and new.responses and (old is None or not old.responses)
        moved = moved + _READ_INTERVAL_SECONDS if only_new_answers and all(comparison.responses) else 0.0
        if time.monotonic() - checked > _CHANGE_CHECK_SECONDS:
            checked = time.monotonic()
            if change := _change(registry, cluster, service, pair):
                return RolloutObservation(change)
        time.sleep(_READ_INTERVAL_SECONDS)
    worse = comparison.look(last=True)
    return RolloutObservation(worse or comparison.summary(), worse=bool(worse), before=before[0])


def _pair_to_compare(registry: Registry, cluster: Cluster, service: str, pair: ServedPair) -> ServedPair | str:
    """The pair that was accepted before, or the reason why there is nothing to watch."""
    runs, events = accepted_runs(cluster, service), registry.history.events()
    if not runs or runs[0].pair != pair:
        return f"version {pair[0]} is not the one accepted last; nothing to watch"
    change = last_change(events)
    if change is not None and change.action == ROLLED_BACK:
        return f"version {pair[0]} was live before and returned by a rollback; nothing to watch"
    last = next((event for event in events if (event.version, event.image) == pair), None)
    if last is not None and last.action == WATCHED:
        return f"watched before: {last.reason}"
    before = pair_before(runs, events)
    return before.pair if before else f"version {pair[0]} is the first; nothing to compare it with"


def _change(registry: Registry, cluster: Cluster, service: str, pair: ServedPair) -> str:
    """What someone changed during the watch that ends it; "" for nothing."""
    if rollback := withdrawal(registry.history.events(), *pair):
        return f"version {pair[0]} was rolled back by {rollback.actor} during the watch: {rollback.reason}"
    runs = accepted_runs(cluster, service)
    if not runs or runs[0].pair != pair:
        return f"version {pair[0]} is no longer the one accepted last"
    return ""


def _name_of(before: ServedPair, pair: ServedPair) -> str:
    """The older revision in words: by its image if the model is the same."""
    if before[0] != pair[0]:
        return f"version {before[0]}"
    return f"the previous image ({before[1].rpartition('@')[2][:19]})"
