"""The step `watch`: watch the roll-out of a new revision, and roll it back if it does worse."""

from image_classifier.platform import Cluster, require_workload, watch_rollout, withdraw_live_pair
from image_classifier.registry import Decision
from image_classifier.settings import Settings
from image_classifier.steps.model_access import actor, open_registry
from image_classifier.steps.results import write_results
from image_classifier.text import Report


def watch(settings: Settings, report: Report) -> None:
    """Watch the roll-out of `model` in `image`, and roll it back if it does worse than the revision before.

    A rollback is a result, not an error.
    """
    registry = open_registry(settings, report)
    version = registry.versions.get(settings.model or "champion")
    cluster = Cluster.connect()
    pair = version.number, settings.image
    result = watch_rollout(registry, cluster, settings.service, pair, seconds=settings.watch_duration, report=report)
    report(f"version {version.number}: {result.reason}")
    reason = result.reason
    if result.worse:
        workload = require_workload(cluster, settings.service)
        change = withdraw_live_pair(registry, cluster, workload, actor=actor(), reason=result.reason)
        reason = f"rolled back to version {change.after.number}: {result.reason}"
        report(reason)
    elif result.before is not None:
        registry.history.record_watch(
            version, actor=actor(), reason=reason, image=settings.image, from_version=result.before
        )
    verdict = Decision.REFUSED if result.worse else Decision.ACCEPTED
    write_results(settings.results, {"verdict": verdict, "reason": reason})
