"""Rollback of a workload, through the supply chain, which would revert any change made without it.

There are two ways:

- *Withdraw* the live pair of server image and model version: the registry records it, and the TaskRun of `accept` that
  accepted the pair is deleted. Then `accept` outputs the pair before, and `serve` deploys that at once; when `accept`
  runs again, it refuses the withdrawn pair. The next version is tried as usual.
- *Pin* a version with the workload's param `model_version`: it is tried and served with the newest image, and stays
  until it is released.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from image_classifier.errors import ClusterError
from image_classifier.platform.cluster import TASK_RUN, WORKLOAD, Cluster, Object
from image_classifier.platform.object_status import is_true, output_of, results_of
from image_classifier.platform.pod_metrics import ServedPair
from image_classifier.platform.workload import PIN_PARAM, params_of, runs_of, set_params
from image_classifier.registry import (
    NOT_ACCEPTED,
    Decision,
    Event,
    Registry,
    Version,
    check_no_recent_rollback,
    require_served,
    withdrawal,
)

_RECONCILE_ANNOTATION = "image-classifier/woken-at"


@dataclass(frozen=True)
class AcceptedRun:
    """A TaskRun of `accept` that accepted a pair."""

    name: str
    uid: str
    pair: ServedPair


@dataclass(frozen=True)
class WorkloadRollback:
    """From which version to which a workload is rolled back."""

    before: Version
    after: Version
    image: str  # server image that will serve `after`; "" for the newest


def accepted_runs(cluster: Cluster, workload: str) -> list[AcceptedRun]:
    """The TaskRuns of `accept` that accepted a pair and still exist, newest first."""
    found = []
    for run in runs_of(cluster, workload, "accept"):
        results = results_of(run.get("status", {}))
        if results.get("verdict") == Decision.ACCEPTED and is_true(run, "Succeeded"):
            pair = int(results["model-version"]), results["image"]
            found.append(AcceptedRun(run["metadata"]["name"], run["metadata"]["uid"], pair))
    return found


def pair_before(runs: Sequence[AcceptedRun], events: Sequence[Event]) -> AcceptedRun | None:
    """The newest run with another pair than the first run's, unless that was withdrawn; None if there is none."""
    others = (run for run in runs if run.pair != runs[0].pair)
    return next((run for run in others if withdrawal(events, *run.pair) is None), None)


def withdraw_live_pair(
    registry: Registry, cluster: Cluster, workload: Object, *, actor: str, reason: str
) -> WorkloadRollback:
    """Replace the live pair by the one that was accepted before it.

    The chain follows when Cartographer next reconciles the workload: when a step ends, or after `request_reconcile`.
    Raises ClusterError if there is no pair before, or a version is pinned.
    """
    name = workload["metadata"]["name"]
    if pinned := params_of(workload).get(PIN_PARAM):
        raise ClusterError(
            f"version {pinned} is pinned by the param {PIN_PARAM} of workload {name}; --release serves the newest "
            "version again, and --to pins another one"
        )
    runs, events = accepted_runs(cluster, name), registry.history.events()
    if not runs:
        raise _nothing_accepted(name)
    version, image = runs[0].pair
    target = pair_before(runs, events)
    if target is None:
        raise ClusterError(
            f"no TaskRun is left that accepted another pair than version {version} in {image}; pin a version with --to "
            "(`image-classifier history` lists them)"
        )
    if withdrawal(events, version, image) is None:  # otherwise this completes an interrupted rollback
        check_no_recent_rollback(events)
    target_version, target_image = target.pair
    rollback = WorkloadRollback(
        registry.versions.get(str(version)), registry.versions.get(str(target_version)), target_image
    )
    # First recorded, then deleted: if interrupted in between, a repetition finds the TaskRun and deletes it. In the
    # other order `accept` would accept the pair again.
    registry.history.roll_back(
        rollback.after, replaced=version, actor=actor, reason=reason, image=target_image, from_image=image
    )
    for run in runs[: runs.index(target)]:
        cluster.delete(TASK_RUN, run.name, run.uid)
    return rollback


def pin_version(
    registry: Registry, cluster: Cluster, workload: Object, to: str, *, actor: str, reason: str
) -> WorkloadRollback:
    """Pin version `to`; raises ClusterError or RegistryError if it is live already or may not serve."""
    name = workload["metadata"]["name"]
    version, champion = require_served(registry, to), registry.versions.champion()
    pinned = str(params_of(workload).get(PIN_PARAM, ""))
    if champion is None:
        raise _nothing_accepted(name)
    if pinned == str(version.number) or (not pinned and champion.number == version.number):
        raise ClusterError(f"version {version.number} is already live")
    image = output_of(workload.get("status", {}).get("resources") or [], "server-image", "image")
    set_params(cluster, workload, {PIN_PARAM: str(version.number)})
    registry.history.roll_back(version, replaced=champion.number, actor=actor, reason=reason, image=image)
    _delete_refusal(cluster, name, version)
    return WorkloadRollback(champion, version, "")


def release_version(registry: Registry, cluster: Cluster, workload: Object, *, actor: str, reason: str) -> Version:
    """Undo a rollback: remove the pin, or allow the withdrawn pair again; returns the version released.

    As after `withdraw_live_pair`, `request_reconcile` speeds it up. Raises ClusterError if nothing is pinned or
    withdrawn.
    """
    name, champion = workload["metadata"]["name"], registry.versions.champion()
    if params_of(workload).get(PIN_PARAM) and champion is not None:
        set_params(cluster, workload, {PIN_PARAM: None})
        registry.history.release(champion, actor=actor, reason=reason)
        return champion
    # The pair that was tried last is the one that the chain would serve.
    for run in runs_of(cluster, name, "accept")[:1]:
        results = results_of(run.get("status", {}))
        number, image = results.get("model-version", ""), results.get("image", "")
        is_refused = results.get("verdict") == Decision.REFUSED
        if is_refused and withdrawal(registry.history.events(), int(number), image):
            version = registry.versions.get(number)
            registry.history.release(version, actor=actor, reason=reason, image=image)
            _delete_refusal(cluster, name, version)
            return version
    raise ClusterError(f"workload {name} has neither a pinned nor a withdrawn version, so nothing to release")


def request_reconcile(cluster: Cluster, workload: Object) -> None:
    """Let Cartographer reconcile a workload now: it notices changes at once, but deletions only after a while."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    change = {"metadata": {"annotations": {_RECONCILE_ANNOTATION: now}}}
    cluster.patch(WORKLOAD, workload["metadata"]["name"], change)


def _nothing_accepted(workload: str) -> ClusterError:
    return ClusterError(f"workload {workload} has no accepted version yet, so nothing to roll back from")


def _delete_refusal(cluster: Cluster, workload: str, version: Version) -> None:
    """Delete the newest TaskRun of `accept` if it did not accept the version: until then `accept` does not rerun."""
    for run in runs_of(cluster, workload, "accept")[:1]:
        results = results_of(run.get("status", {}))
        if results.get("verdict") in NOT_ACCEPTED and results.get("model-version") == str(version.number):
            cluster.delete(TASK_RUN, run["metadata"]["name"], run["metadata"]["uid"])
