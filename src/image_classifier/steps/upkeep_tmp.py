"""What is done about a version that serves: whether the images it is sent have changed, and when to train again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from image_classifier.errors import RegistryError, ServerError, SettingError
from image_classifier.monitoring import DriftJudgement, DriftRecord, DriftReference, Rules, decide
from image_classifier.platform import (
    PIN,
    Cluster,
    ServerReport,
    addresses_of,
    ask_server,
    model_name,
    params_of,
    require_workload,
    set_params,
)
from image_classifier.registry import Registry, Version
from image_classifier.registry import artifact_paths as artifacts
from image_classifier.settings import Settings
from image_classifier.steps.fingerprint import look_again
from image_classifier.steps.registry_access import Report, actor, fetch_model, open_registry
from image_classifier.text import clip

_LONGEST_TEXT = 200
"""Of a param of a workload that gives a reason."""


@dataclass(frozen=True)
class DriftOfVersion:
    """What the servers of a version have seen, and what it tells."""

    version: Version
    record: DriftRecord
    judgement: DriftJudgement

    @property
    def in_words(self) -> str:
        verdict = self.judgement.verdict.value.replace("_", " ")
        images = f"{self.record.images:,} images in all"
        return f"version {self.version.number}: {verdict}: {self.judgement.reason} ({images})"

    def to_dict(self) -> dict[str, object]:
        newest = self.record.windows[-1] if self.record.windows else None
        return {
            "version": self.version.number,
            **(newest.judgement if newest else self.judgement.to_dict()),
            "images": self.record.images,
            "filling": self.record.filling.images,
            "window": {"ended": newest.ended.isoformat(), "images": newest.images} if newest else None,
        }


def drift(settings: Settings, workload: str, servers: Sequence[str], report: Report) -> list[DriftOfVersion]:
    """Add what servers have counted to the records of their versions, and judge those.

    The servers are those of a workload, and those at the addresses `servers`. A server that does not answer, or whose
    version the registry does not know, is told of and left out.
    """
    addresses = list(servers)
    if workload:
        cluster = Cluster.connect(settings.namespace)
        settings = replace(settings, name=model_name(require_workload(cluster, workload)))
        addresses += addresses_of(cluster, workload)
    elif not servers:
        raise SettingError("name a workload, or a server with --server http://127.0.0.1:8080")
    registry = open_registry(settings, report)
    by_version: dict[str, list[ServerReport]] = {}
    for address in addresses:
        try:
            told = ask_server(address, settings.token)
        except ServerError as error:
            report(f"left out: {error}")
            continue
        if told.model != registry.name or not told.version.isdigit():
            report(f"left out: {address} serves {told.model} {told.version}, no version of {registry.name}")
        elif not told.has_reference:
            report(f"left out: {address} serves a version that was packed without what it is compared with")
        else:
            by_version.setdefault(told.version, []).append(told)
    if not by_version and (champion := registry.champion()) is not None:
        report(f"no server of {registry.name} was read; the record is as it was")
        by_version = {str(champion.number): []}
    judged = []
    for number, reports in sorted(by_version.items(), key=lambda item: int(item[0])):
        version = registry.get(number)
        record = _drift_record(registry, version)
        if reports:
            record = _with_counts(record, version, reports, settings, report)
            with registry.resume_run(version.run_id) as run:
                run.log_text(record.to_json(), artifacts.DRIFT)
        judgement = record.judgement(settings.drift_window)
        registry.set_tags(version, {"drift": judgement.verdict.value, "drift_reason": judgement.reason})
        judged.append(DriftOfVersion(version, record, judgement))
    return judged


def _drift_record(registry: Registry, version: Version) -> DriftRecord:
    content = registry.read_artifact(version.run_id, artifacts.DRIFT)
    try:
        return DriftRecord() if content is None else DriftRecord.from_json(content)
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(
            f"{artifacts.DRIFT} of run {version.run_id} cannot be used ({error!r}); delete it to begin a new record"
        ) from error


def _with_counts(
    record: DriftRecord,
    version: Version,
    reports: Sequence[ServerReport],
    settings: Settings,
    report: Report,
) -> DriftRecord:
    package = fetch_model(replace(settings, model=version.uri), report)
    reference = DriftReference.of(package)
    try:
        if reference is None:
            raise ValueError("the version has no reference")
        return record.with_counts(
            [told.counts for told in reports],
            reference,
            window=settings.drift_window,
            false_alarms=settings.drift_false_alarms,
            now=datetime.now(UTC),
        )
    except ValueError as error:
        raise RegistryError(
            f"the counts of version {version.number}'s servers do not fit it: {error}"
        ) from error


def retrain(settings: Settings, workload: str, if_drifted: bool, force: bool, report: Report) -> bool:
    """Set a workload's param `retrain` where the rules want that; gives whether they did.

    Unless `force`, what the chain then runs trains only where the data changed.
    """
    if not (if_drifted or settings.retrain_every):
        raise SettingError(
            "nothing would ever start a training; give --if-drifted, --retrain-every 30d, or both"
        )
    cluster = Cluster.connect(settings.namespace)
    found = require_workload(cluster, workload)
    if pinned := params_of(found).get(PIN):
        report(f"not retrained: {workload} is pinned to version {pinned}")
        return False
    registry = open_registry(replace(settings, name=model_name(found)), report)
    champion = registry.champion()
    if champion is None:
        report(f"not retrained: no version of {registry.name} serves yet")
        return False
    record, now = _drift_record(registry, champion), datetime.now(UTC)
    rules = Rules(
        if_drifted, timedelta(seconds=settings.retrain_every), timedelta(seconds=settings.retrain_pause)
    )
    newest = record.windows[-1] if record.windows else None
    decision = decide(rules, registry.history(), newest, champion.created, now)
    if not decision.start:
        report(f"not retrained: {decision.reason}")
        return False
    # Recorded first: whatever fails afterwards, the pause holds, and no cluster is asked again and again.
    registry.retraining(champion, actor=actor(), reason=decision.reason)
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ} {clip(decision.reason, _LONGEST_TEXT)}"
    given = str(params_of(found).get("retrain", ""))
    set_params(cluster, found, {"retrain": stamp if force else look_again(given, stamp)})
    report(f"{workload} looks at its data again{' and trains' if force else ''}: {decision.reason}")
    return True
