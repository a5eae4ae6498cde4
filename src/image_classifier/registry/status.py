"""Status of a registered model: what is live, and why the newest version is not."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from image_classifier.registry import artifact_paths
from image_classifier.registry.decision import Decision, RecordedVerdict
from image_classifier.registry.events import HELD, PROMOTED, REFUSED, Event, has_served
from image_classifier.registry.registry import Registry
from image_classifier.registry.versions import Version

FAILED_RULE = "fail"
"""Outcome of a rule that a version fails, as the gate records it."""


class Stage(StrEnum):
    """How far the newest version came."""

    NONE = "no version is registered"
    SERVES = "it is live"
    NOT_JUDGED = "it has not been judged"
    REFUSED = "it was refused"
    HELD = "it was held, as there was not enough evidence to replace the champion"
    NOT_PROMOTED = "it was accepted, but not promoted"
    REPLACED = "it was live, and another version was promoted after it"


@dataclass(frozen=True)
class Status:
    """The newest version and the champion, with the last decisions about them."""

    name: str
    stage: Stage
    newest: Version | None
    champion: Version | None
    decided: Event | None
    """The event that put the newest version into its stage."""
    promoted: Event | None
    """The champion's last promotion."""
    verdict: RecordedVerdict | None
    """Of the newest version, if it was refused or held."""
    report: str
    """Address of the newest version's report, or ""."""

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The rules of the gate that the newest version failed."""
        findings = self.verdict.findings if self.verdict else ()
        return [dict(finding) for finding in findings if finding["outcome"] == FAILED_RULE]


def status_of(registry: Registry) -> Status:
    """Read the status; raises RegistryError if the registry cannot be used, or has only models of other names."""
    registry.versions.check_name()
    newest, champion = registry.versions.newest(), registry.versions.champion()
    events = registry.history.events()
    promoted = _last(events, champion, PROMOTED)
    if newest is None:
        return Status(registry.name, Stage.NONE, None, champion, None, promoted, None, "")
    if champion is not None and champion.number == newest.number:
        stage, decided = Stage.SERVES, promoted
    elif has_served(events, newest.number):
        stage, decided = Stage.REPLACED, promoted
    elif newest.decision is Decision.NOT_JUDGED:
        stage, decided = Stage.NOT_JUDGED, None
    elif newest.decision is Decision.REFUSED:
        stage, decided = Stage.REFUSED, _last(events, newest, REFUSED)
    elif newest.decision is Decision.HELD:
        stage, decided = Stage.HELD, _last(events, newest, HELD)
    else:
        stage, decided = Stage.NOT_PROMOTED, None
    verdict = registry.history.read_verdict(newest) if stage in _NOT_PASSED else None
    report = registry.runs.page_of(newest.run_id, artifact_paths.REPORT)
    return Status(registry.name, stage, newest, champion, decided, promoted, verdict, report)


def describe_status(status: Status) -> Iterator[str]:
    """The status as lines for people."""
    name, newest = status.name, status.newest
    if newest is None:
        yield f"{name}: no version is registered; `image-classifier run` trains, judges and serves a first one"
        return
    if status.champion is None:
        yield f"{name}: no version is live"
    else:
        since = f" since {status.promoted.time:%Y-%m-%d %H:%M} UTC" if status.promoted else ""
        yield f"{name}: version {status.champion.number} is live{since}"
    if status.promoted is not None:
        yield f"  because     it was promoted by {status.promoted.actor}: {status.promoted.reason}"
    if status.stage is Stage.SERVES:
        yield "  newest      it is the newest version"
        return
    yield f"  newest      version {newest.number} of {newest.created:%Y-%m-%d %H:%M} UTC: {status.stage}"
    for finding in status.failed:
        yield f"    FAIL  {finding['rule']}: {finding['reason']}"
    if status.decided is not None and not status.failed:
        yield f"    on {status.decided.time:%Y-%m-%d %H:%M} UTC by {status.decided.actor}: {status.decided.reason}"
    yield f"  what to do  {_ADVICE[status.stage].format(number=newest.number)}"
    if status.report and status.stage in _NOT_PASSED:
        yield f"  report      {status.report}"


def status_to_json(status: Status) -> dict[str, Any]:
    """The status for programs: {name, place, newest, champion, since, decided, failed, report}."""
    return {
        "name": status.name,
        "place": status.stage.name.lower(),
        "newest": status.newest and status.newest.number,
        "champion": status.champion and status.champion.number,
        "since": _timestamp(status.promoted.time if status.promoted else None),
        "decided": status.decided and {**asdict(status.decided), "time": _timestamp(status.decided.time)},
        "failed": status.failed,
        "report": status.report or None,
    }


_NOT_PASSED = (Stage.REFUSED, Stage.HELD)
_ADVICE = {
    Stage.NOT_JUDGED: "judge it: image-classifier gate",
    Stage.REFUSED: "read the report, then improve the data, train longer, or change a threshold: "
    "image-classifier gate --help",
    Stage.HELD: "read the report, then add test images or improve the model: image-classifier gate --help",
    Stage.NOT_PROMOTED: "promote it: image-classifier promote (on the platform the step `accept` does so)",
    Stage.REPLACED: "to return to it: image-classifier rollback --to {number}",
}


def _last(events: list[Event], version: Version | None, action: str) -> Event | None:
    """The newest event with an action about a version; `events` are newest first."""
    about = (event for event in events if version is not None and event.version == version.number)
    return next((event for event in about if event.action == action), None)


def _timestamp(time: datetime | None) -> str | None:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}" if time else None
