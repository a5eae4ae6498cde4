"""What serves and why, what served before, and the way back to it: `history`, `why` and `rollback`."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from image_classifier.errors import ClusterError, RegistryError
from image_classifier.settings import Settings
from image_classifier.steps.registry_access import Report, actor, open_registry

if TYPE_CHECKING:  # this brings MLflow, which `why` of a workload does not need
    from image_classifier.registry import Entry


def history(settings: Settings, report: Report) -> "list[Entry]":
    """All that was decided about the model's versions, the newest first."""
    from image_classifier.registry import entries

    return entries(open_registry(settings, report))


@dataclass(frozen=True)
class Asked:
    """What a roll-back is asked to do."""

    to: str = ""
    """Version to go to; "": the one that served before."""
    release: bool = False
    """Undo it instead."""
    reason: str = ""
    workload: str = ""
    """"" for the registry of this machine, without a platform."""


def rollback(settings: Settings, asked: Asked, report: Report) -> None:
    """Let a version that served before serve again, and record who wanted it and why.

    On the platform it ends when the address of the workload gives that version's answers alone.
    """
    from image_classifier.registry import NO_REASON, roll_back_champion, side_by_side

    reason = asked.reason or NO_REASON
    if asked.workload:
        _roll_workload_back(settings, asked, reason, report)
        return
    if asked.release:
        raise RegistryError(
            "nothing is held back without a platform; name a workload, or the version with "
            "`image-classifier promote --model NUMBER`"
        )
    registry = open_registry(settings, report)
    before, after = roll_back_champion(registry, asked.to, actor=actor(), reason=reason)
    for line in side_by_side(registry, before, after):
        report(line)
    report(
        f"version {after.number} is the champion in place of {before.number}; `image-classifier serve` serves it, "
        "and a server that runs goes on with its own"
    )


def _roll_workload_back(settings: Settings, asked: Asked, reason: str, report: Report) -> None:
    from image_classifier.platform import (
        INFERENCE_SERVICE,
        Cluster,
        Expected,
        model_name,
        pin,
        release,
        require_workload,
        wait_for_all_answers,
        wake,
        withdraw,
    )
    from image_classifier.registry import side_by_side

    cluster = Cluster.connect(settings.namespace)
    workload = require_workload(cluster, asked.workload)
    registry = open_registry(replace(settings, name=model_name(workload)), report)
    user = cluster.user()
    by = f"{actor()} ({user})" if user else actor()
    started = time.monotonic()
    if asked.release:
        freed = release(registry, cluster, workload, actor=by, reason=reason)
        wake(cluster, workload)
        report(
            f"version {freed.number} is released; the chain tries what is newest, and `tanzu apps workload get "
            f"{asked.workload}` says how far it came"
        )
        return
    if asked.to:
        change = pin(registry, cluster, workload, asked.to, actor=by, reason=reason)
    else:
        change = withdraw(registry, cluster, workload, actor=by, reason=reason)
    wake(cluster, workload)
    for line in side_by_side(registry, change.before, change.after):
        report(line)
    report(f"version {change.after.number} comes in place of {change.before.number}; waiting for its answers")
    service = cluster.get(INFERENCE_SERVICE, asked.workload)
    url = (service or {}).get("status", {}).get("url", "")
    if not url:
        raise ClusterError(f"workload {asked.workload} has no address yet; nothing can be asked of it")
    expected = Expected(str(change.after.number), change.image)
    wait_for_all_answers(url, expected, timeout=settings.accept_timeout)
    report(
        f"version {change.after.number} gives all answers of {url} after {time.monotonic() - started:.0f} s; "
        "--release undoes this"
    )


@dataclass(frozen=True)
class Answer:
    """What `why` found."""

    well: bool
    """Whether nothing is wrong."""
    lines: tuple[str, ...]
    """For people."""
    content: Mapping[str, Any]
    """For machines."""


def why(settings: Settings, workload: str | None, report: Report) -> Answer:
    """Why a workload is as it is, of its cluster; without one, how the newest version stands, of the registry.

    Raises ClusterError where there is no cluster, it cannot be asked, or it has no such workload.
    """
    if workload is None:
        return _registry_answer(settings, report)
    from image_classifier.platform import Cluster, collect
    from image_classifier.platform.diagnosis import diagnosis as made_of

    evidence = collect(Cluster.connect(settings.namespace), workload, datetime.now(UTC))
    diagnosis = made_of.diagnose(evidence)
    return Answer(
        diagnosis.outcome is not made_of.Health.TROUBLE,
        tuple(made_of.in_words(diagnosis)),
        made_of.to_json(diagnosis),
    )


def _registry_answer(settings: Settings, report: Report) -> Answer:
    from image_classifier.registry import Place, in_words, standing_of, to_json

    standing = standing_of(open_registry(settings, report))
    return Answer(standing.place is Place.SERVES, tuple(in_words(standing)), to_json(standing))
