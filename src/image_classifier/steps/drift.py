"""The command `drift`: add up what servers counted, and judge whether it differs from the reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from image_classifier.errors import RegistryError, ServerError, SettingError
from image_classifier.monitoring import DriftRecord, DriftReference, DriftResult
from image_classifier.platform import (
    Cluster,
    ServerReport,
    fetch_server_report,
    model_name,
    require_workload,
    server_addresses,
)
from image_classifier.registry import Registry, Version, artifact_paths
from image_classifier.settings import Settings
from image_classifier.steps.model_access import fetch_version, named, open_registry
from image_classifier.text import Report


@dataclass(frozen=True)
class VersionDrift:
    """What the servers of a version counted, and the verdict on it."""

    version: Version
    record: DriftRecord
    result: DriftResult

    @property
    def sentence(self) -> str:
        verdict = self.result.verdict.value.replace("_", " ")
        images = f"{self.record.images:,} images in total"
        return f"version {self.version.number}: {verdict}: {self.result.reason} ({images})"

    def to_dict(self) -> dict[str, object]:
        newest = self.record.windows[-1] if self.record.windows else None
        return {
            "version": self.version.number,
            **(newest.judgement if newest else self.result.to_dict()),
            "images": self.record.images,
            "filling": self.record.filling.images,
            "window": {"ended": newest.ended.isoformat(), "images": newest.images} if newest else None,
        }


def drift(settings: Settings, workload: str, servers: Sequence[str], report: Report) -> list[VersionDrift]:
    """Add the counts of servers to the records of their versions, and judge each version.

    The servers are those of a workload and those at the addresses `servers`. A server that does not answer, or whose
    version is not in the registry, is reported and skipped.
    """
    pods: Sequence[str] = ()
    if workload:
        cluster = Cluster.connect(settings.namespace)
        settings = named(settings, model_name(require_workload(cluster, workload)))
        pods = server_addresses(cluster, workload)
    elif not servers:
        raise SettingError("missing a workload, or a server such as --server http://127.0.0.1:8080")
    registry = open_registry(settings, report)
    by_version = _ask_servers(registry, pods, servers, settings.token, report)
    if not by_version and (champion := registry.versions.champion()) is not None:
        report(f"no server of {registry.name} answered; the record is unchanged")
        by_version = {str(champion.number): []}
    judged = []
    for number, reports in sorted(by_version.items(), key=lambda item: int(item[0])):
        version = registry.versions.get(number)
        record = read_drift_record(registry, version)
        if reports:
            record = _add_counts(settings, registry, version, record, reports)
            with registry.runs.resume(version.run_id) as run:
                run.log_text(record.to_json(), artifact_paths.DRIFT)
        result = record.result(settings.drift_window)
        registry.versions.set_tags(version, {"drift": result.verdict.value, "drift_reason": result.reason})
        judged.append(VersionDrift(version, record, result))
    return judged


def read_drift_record(registry: Registry, version: Version) -> DriftRecord:
    """The recorded counts of a version; an empty record if there are none."""
    content = registry.runs.read_artifact(version.run_id, artifact_paths.DRIFT)
    try:
        return DriftRecord() if content is None else DriftRecord.from_json(content)
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(
            f"cannot use {artifact_paths.DRIFT} of run {version.run_id} ({error!r}); delete it to start a new record"
        ) from error


def _ask_servers(
    registry: Registry, pods: Sequence[str], servers: Sequence[str], token: str, report: Report
) -> dict[str, list[ServerReport]]:
    by_version: dict[str, list[ServerReport]] = {}
    for address in (*servers, *pods):
        try:
            answer = fetch_server_report(address, token, is_pod=address in pods)
        except ServerError as error:
            report(f"skipped: {error}")
            continue
        if answer.model != registry.name or not answer.version.isdigit():
            report(
                f"skipped: {address} serves {answer.model} {answer.version}, which is not a version of {registry.name}"
            )
        elif not answer.has_reference:
            report(f"skipped: the model at {address} has no reference statistics")
        else:
            by_version.setdefault(answer.version, []).append(answer)
    return by_version


def _add_counts(
    settings: Settings, registry: Registry, version: Version, record: DriftRecord, reports: Sequence[ServerReport]
) -> DriftRecord:
    reference = DriftReference.of(fetch_version(settings, registry, version))
    try:
        if reference is None:
            raise ValueError("the version has no reference statistics")
        return record.with_counts(
            [answer.counts for answer in reports],
            reference,
            window=settings.drift_window,
            false_alarms=settings.drift_false_alarms,
            now=datetime.now(UTC),
        )
    except ValueError as error:
        raise RegistryError(f"the counts of the servers of version {version.number} do not fit it: {error}") from error
