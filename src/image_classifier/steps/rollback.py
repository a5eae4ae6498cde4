"""The command `rollback`: let a version that served before serve again."""

import time
from dataclasses import dataclass

from image_classifier.errors import ClusterError, RegistryError
from image_classifier.platform import (
    INFERENCE_SERVICE,
    Cluster,
    ExpectedServer,
    model_name,
    pin_version,
    release_version,
    request_reconcile,
    require_workload,
    wait_for_rollout,
    withdraw_live_pair,
)
from image_classifier.registry import NO_REASON, compare_metrics, roll_back_champion
from image_classifier.settings import Settings
from image_classifier.steps.model_access import actor, named, open_registry
from image_classifier.text import Report


@dataclass(frozen=True)
class RollbackRequest:
    """What a rollback should do."""

    to: str = ""  # version to return to; "": the previous champion
    release: bool = False  # undo a rollback instead
    reason: str = ""
    workload: str = ""  # "" for the registry of this machine, without a platform


def rollback(settings: Settings, request: RollbackRequest, report: Report) -> None:
    """Roll back, and record who did it and why.

    On the platform it returns when all answers from the workload's address come from that version.
    """
    if request.workload:
        _roll_back_workload(settings, request, report)
        return
    if request.release:
        raise RegistryError(
            "--release needs a workload, as nothing is blocked without a platform; to return to a version use "
            "`image-classifier rollback --to NUMBER`"
        )
    registry = open_registry(settings, report)
    before, after = roll_back_champion(registry, request.to, actor=actor(), reason=request.reason or NO_REASON)
    for line in compare_metrics(registry, before, after):
        report(line)
    report(
        f"version {after.number} is the champion instead of {before.number}; `image-classifier serve` serves it, and a "
        "running server keeps its own model"
    )


def _roll_back_workload(settings: Settings, request: RollbackRequest, report: Report) -> None:
    started = time.monotonic()
    cluster = Cluster.connect(settings.namespace)
    workload = require_workload(cluster, request.workload)
    registry = open_registry(named(settings, model_name(workload)), report)
    user, reason = cluster.user(), request.reason or NO_REASON
    by = f"{actor()} ({user})" if user else actor()
    if request.release:
        released = release_version(registry, cluster, workload, actor=by, reason=reason)
        request_reconcile(cluster, workload)
        report(
            f"version {released.number} is released; the chain tries the newest version, and "
            f"`tanzu apps workload get {request.workload}` shows its progress"
        )
        return
    if request.to:
        change = pin_version(registry, cluster, workload, request.to, actor=by, reason=reason)
    else:
        change = withdraw_live_pair(registry, cluster, workload, actor=by, reason=reason)
    request_reconcile(cluster, workload)
    for line in compare_metrics(registry, change.before, change.after):
        report(line)
    report(f"version {change.after.number} replaces {change.before.number}; waiting for its answers")
    service = cluster.get(INFERENCE_SERVICE, request.workload)
    url = (service or {}).get("status", {}).get("url", "")
    if not url:
        raise ClusterError(f"workload {request.workload} has no address yet, so no answers can be checked")
    expected = ExpectedServer(str(change.after.number), change.image)
    wait_for_rollout(url, expected, timeout=settings.accept_timeout)
    seconds = time.monotonic() - started
    report(f"version {change.after.number} answers all requests to {url} after {seconds:.0f} s; --release undoes this")
