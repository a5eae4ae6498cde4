"""The command `retrain`: start a workload's training again if the policy asks for it."""

from datetime import UTC, datetime, timedelta

from image_classifier.errors import SettingError
from image_classifier.monitoring import RetrainingPolicy, decide_retraining
from image_classifier.platform import PIN_PARAM, Cluster, model_name, params_of, require_workload, set_params
from image_classifier.settings import Settings
from image_classifier.steps.drift import read_drift_record
from image_classifier.steps.fingerprint import look_again
from image_classifier.steps.model_access import actor, named, open_registry
from image_classifier.text import Report, clip

_MAX_REASON_CHARACTERS = 200  # in a workload param


def retrain(settings: Settings, workload: str, if_drifted: bool, force: bool, report: Report) -> bool:
    """Set the workload's param `retrain` if the policy asks for it; returns whether it did.

    Unless `force` is set, the chain then trains only if the data changed.
    """
    if not (if_drifted or settings.retrain_every):
        raise SettingError("nothing would ever start a training; give --if-drifted, --retrain-every 30d, or both")
    cluster = Cluster.connect(settings.namespace)
    found = require_workload(cluster, workload)
    if pinned := params_of(found).get(PIN_PARAM):
        report(f"not retrained: {workload} is pinned to version {pinned}")
        return False
    registry = open_registry(named(settings, model_name(found)), report)
    champion = registry.versions.champion()
    if champion is None:
        report(f"not retrained: {registry.name} has no live version yet")
        return False
    record, now = read_drift_record(registry, champion), datetime.now(UTC)
    policy = RetrainingPolicy(
        if_drifted, timedelta(seconds=settings.retrain_every), timedelta(seconds=settings.retrain_pause)
    )
    newest = record.windows[-1] if record.windows else None
    decision = decide_retraining(policy, registry.history.events(), newest, champion.created, now)
    if not decision.start:
        report(f"not retrained: {decision.reason}")
        return False
    # Recorded before the change: whatever fails afterwards, the pause applies and training is not started repeatedly.
    registry.history.record_retraining(champion, actor=actor(), reason=decision.reason)
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ} {clip(decision.reason, _MAX_REASON_CHARACTERS)}"
    given = str(params_of(found).get("retrain", ""))
    set_params(cluster, found, {"retrain": stamp if force else look_again(given, stamp)})
    report(
        f"{workload}: {'training again' if force else 'training again if the data changed'}; reason: {decision.reason}"
    )
    return True
