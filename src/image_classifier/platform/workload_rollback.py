"""Back to what served before, on the platform: through the chain, which would undo anything that is done beside it.

Two ways, by what is wanted:

- *Withdraw* what serves, a pair of server image and model version: the registry notes it, and the run of `accept` that
  passed it is deleted. What `accept` passes on is then the pair before, which `serve` takes at once; and `accept`, run
  again, refuses the withdrawn pair with the reason. Nothing is held: the next version goes its usual way.
- *Pin* a version by the workload's param `model_version`: it is tried and served with the newest image, and stays until
  the pin is released.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from image_classifier.errors import ClusterError
from image_classifier.platform.cluster import TASK_RUN, WORKLOAD, Cluster, Object
from image_classifier.platform.diagnosis.object_status import is_true, output_of, results_of
from image_classifier.platform.workload import PIN, params_of, runs_of, set_params
from image_classifier.registry import Event, Registry, Version, acceptable, check_alone, withdrawal

_WOKEN = "image-classifier/woken-at"


@dataclass(frozen=True)
class AcceptedRun:
    """A run of `accept` that passed a pair of server image and model version on."""

    name: str
    uid: str
    version: int
    image: str

    @property
    def pair(self) -> tuple[int, str]:
        return self.version, self.image


@dataclass(frozen=True)
class Change:
    """What a roll-back is from and to."""

    before: Version
    after: Version
    image: str
    """Server image that answers with it then; "": whichever is the newest."""


def accepted_runs(cluster: Cluster, workload: str) -> list[AcceptedRun]:
    """The runs of `accept` that passed something on, as far as they are kept, the newest first."""
    runs = [
        (run, results)
        for run in runs_of(cluster, workload, "accept")
        if (results := results_of(run.get("status", {}))).get("verdict") == "accepted"
        and is_true(run, "Succeeded")
    ]
    return [
        AcceptedRun(
            run["metadata"]["name"], run["metadata"]["uid"], int(results["model-version"]), results["image"]
        )
        for run, results in runs
    ]


def withdraw(registry: Registry, cluster: Cluster, workload: Object, *, actor: str, reason: str) -> Change:
    """Take the pair that serves out of service, for the one that was accepted before it.

    The chain follows when Cartographer looks at the workload next: when a step ends, or `wake` is called. Raises
    ClusterError where there is none, or where a pin holds what serves.
    """
    name = workload["metadata"]["name"]
    if pinned := params_of(workload).get(PIN):
        raise ClusterError(
            f"version {pinned} is pinned by the param {PIN} of workload {name}; --release lets the newest serve "
            "again, and --to pins another"
        )
    runs, events = accepted_runs(cluster, name), registry.history()
    if not runs:
        raise ClusterError(f"nothing of workload {name} was accepted yet; there is nothing to roll back from")
    current = runs[0]
    index = _index_of_the_one_before(runs, events)
    if index is None:
        raise ClusterError(
            f"no run is left that accepted another pair than version {current.version} in {current.image}; --to pins "
            "a version (`image-classifier history` lists them)"
        )
    if withdrawal(events, *current.pair) is None:  # else this completes what was cut off
        check_alone(events)
    target = runs[index]
    change = Change(registry.get(str(current.version)), registry.get(str(target.version)), target.image)
    # The order of writes: noted, then deleted. After a stop between them a repeat finds the run and deletes it; the
    # other way round `accept` would pass the pair again.
    registry.roll_back(
        change.after,
        replaced=current.version,
        actor=actor,
        reason=reason,
        image=target.image,
        from_image=current.image,
    )
    for run in runs[:index]:
        cluster.delete(TASK_RUN, run.name, run.uid)
    return change


def _index_of_the_one_before(runs: Sequence[AcceptedRun], events: Sequence[Event]) -> int | None:
    for index, run in enumerate(runs):
        if run.pair != runs[0].pair and withdrawal(events, *run.pair) is None:
            return index
    return None


def pin(
    registry: Registry, cluster: Cluster, workload: Object, to: str, *, actor: str, reason: str
) -> Change:
    """Pin version `to`; raises ClusterError and RegistryError where it cannot serve or does so already."""
    name = workload["metadata"]["name"]
    version, champion = acceptable(registry, to), registry.champion()
    pinned = str(params_of(workload).get(PIN, ""))
    if champion is None:
        raise ClusterError(f"nothing of workload {name} was accepted yet; there is nothing to roll back from")
    if pinned == str(version.number) or (not pinned and champion.number == version.number):
        raise ClusterError(f"version {version.number} serves already")
    image = output_of(workload.get("status", {}).get("resources") or [], "server-image", "image")
    set_params(cluster, workload, {PIN: str(version.number)})
    registry.roll_back(version, replaced=champion.number, actor=actor, reason=reason, image=image)
    _forget_refusal(cluster, name, version)
    return Change(champion, version, "")


def release(registry: Registry, cluster: Cluster, workload: Object, *, actor: str, reason: str) -> Version:
    """Undo a roll-back: take the pin away, or let the withdrawn pair be tried again; gives the version freed.

    As with `withdraw`, `wake` hastens it. Raises ClusterError where neither is there.
    """
    name, champion = workload["metadata"]["name"], registry.champion()
    if params_of(workload).get(PIN) and champion is not None:
        set_params(cluster, workload, {PIN: None})
        registry.release(champion, actor=actor, reason=reason)
        return champion
    # What was tried last is what the chain would serve.
    for run in runs_of(cluster, name, "accept")[:1]:
        results = results_of(run.get("status", {}))
        version, image = results.get("model-version", ""), results.get("image", "")
        if results.get("verdict") == "refused" and withdrawal(registry.history(), int(version), image):
            freed = registry.get(version)
            registry.release(freed, actor=actor, reason=reason, image=image)
            _forget_refusal(cluster, name, freed)
            return freed
    raise ClusterError(
        f"workload {name} has neither a pinned nor a withdrawn version; there is nothing to release"
    )


def _forget_refusal(cluster: Cluster, workload: str, version: Version) -> None:
    """Delete the last run of `accept` where it refused a version, for it is not run again while that is there."""
    for run in runs_of(cluster, workload, "accept")[:1]:
        results = results_of(run.get("status", {}))
        if (results.get("verdict"), results.get("model-version")) == ("refused", str(version.number)):
            cluster.delete(TASK_RUN, run["metadata"]["name"], run["metadata"]["uid"])


def wake(cluster: Cluster, workload: Object) -> None:
    """Have Cartographer look at a workload: it notices at once what changes, but only by and by what is deleted."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    cluster.patch(WORKLOAD, workload["metadata"]["name"], {"metadata": {"annotations": {_WOKEN: now}}})
