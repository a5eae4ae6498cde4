"""Watch a new revision while requests move to it, and turn it back where it does worse than the one before."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from image_classifier.errors import ForbiddenError
from image_classifier.monitoring import RevisionComparison
from image_classifier.platform.cluster import Cluster
from image_classifier.platform.pod_metrics import Increments, Pair, pods_of
from image_classifier.platform.workload_rollback import AcceptedRun, accepted_runs
from image_classifier.registry import ROLLED_BACK, WATCHED, Registry, last_change, withdrawal

_EVERY_SECONDS = 2.0
_MOVED_SECONDS = 10.0
"""Where the old revision had requests and has none for so long, all of them have moved."""
_ASK_SECONDS = 10.0
"""How often the registry and the runs are asked whether somebody changed what serves."""


@dataclass(frozen=True)
class RolloutObservation:
    """How a watch ended."""

    reason: str
    worse: bool = False
    before: int | None = None
    """Version of the revision that it was compared with; None: with none."""


def watch(
    registry: Registry,
    cluster: Cluster,
    service: str,
    pair: Pair,
    *,
    seconds: float,
    report: Callable[[str], None],
) -> RolloutObservation:
    """Compare the revision of `pair` with the one before, for so long or until it is called worse or has taken over.

    Ends as well where nothing was asked, and where somebody changes what serves meanwhile. Raises ForbiddenError where
    the namespace does not allow to look.
    """
    try:
        runs = accepted_runs(cluster, service)
        before = _before(registry, runs, pair)
        if isinstance(before, str):
            return RolloutObservation(before)
        name = _named(before, pair)
        report(f"watching version {pair[0]} beside {name} for up to {seconds:g} s")
        comparison, increments = RevisionComparison(name), Increments()
        asked = time.monotonic()
        end = asked + seconds
        moved = 0.0
        while time.monotonic() < end and moved < _MOVED_SECONDS:
            grown = increments.since_last(pods_of(cluster, service))
            new = grown.pop(pair, None)
            old = grown.pop(before, None)
            if new is not None and old is not None:
                comparison.add(new, old)
            if worse := comparison.look():
                return RolloutObservation(worse, worse=True, before=before[0])
            gone = new is not None and new.answers and (old is None or not old.answers)
            moved = moved + _EVERY_SECONDS if gone and all(comparison.answers) else 0.0
            if time.monotonic() - asked > _ASK_SECONDS:
                asked = time.monotonic()
                if changed := _changed(registry, cluster, service, pair):
                    return RolloutObservation(changed)
            time.sleep(_EVERY_SECONDS)
        worse = comparison.look(last=True)
        return RolloutObservation(worse or comparison.summary(), worse=bool(worse), before=before[0])
    except ForbiddenError as error:
        raise ForbiddenError(
            f"this roll-out cannot be watched: {error}; for the watch, an operator binds the Role "
            "image-classifier-watch (docs/platform-operator.md)"
        ) from error


def _before(registry: Registry, runs: list[AcceptedRun], pair: Pair) -> Pair | str:
    """The pair that was accepted before, or why there is nothing to watch."""
    events = registry.history()
    if not runs or runs[0].pair != pair:
        return f"version {pair[0]} is not what was accepted last; there is nothing to watch"
    change = last_change(events)
    if change is not None and change.action == ROLLED_BACK:
        return f"version {pair[0]} served before and is back; there is nothing to watch"
    seen = next((event for event in events if (event.version, event.image) == pair), None)
    if seen is not None and seen.action == WATCHED:
        return f"watched before: {seen.reason}"
    for run in runs[1:]:
        if run.pair != pair and withdrawal(events, *run.pair) is None:
            return run.pair
    return f"version {pair[0]} is the first; there is nothing to compare it with"


def _changed(registry: Registry, cluster: Cluster, service: str, pair: Pair) -> str:
    """What somebody else changed meanwhile, so that this watch is over; "" for nothing."""
    if rolled_back := withdrawal(registry.history(), *pair):
        return f"{rolled_back.actor} took version {pair[0]} out of service meanwhile: {rolled_back.reason}"
    runs = accepted_runs(cluster, service)
    if not runs or runs[0].pair != pair:
        return f"version {pair[0]} is not what was accepted last any more"
    return ""


def _named(before: Pair, pair: Pair) -> str:
    """The older revision in words: by its image where the model is the same."""
    if before[0] != pair[0]:
        return f"version {before[0]}"
    return f"the image before ({before[1].rpartition('@')[2][:19]})"
