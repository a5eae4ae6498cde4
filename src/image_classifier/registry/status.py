"""How the newest version of a registered model stands to the one that serves, as the registry alone knows it."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from image_classifier.gate import RuleOutcome, RuleResult
from image_classifier.registry import artifact_paths as artifacts
from image_classifier.registry.events import PROMOTED, REFUSED, Event
from image_classifier.registry.registry import Registry, Version


class Place(StrEnum):
    """Where the newest version is."""

    NONE = "nothing was registered"
    SERVES = "it serves"
    NOT_JUDGED = "it was not judged"
    REFUSED = "it was refused"
    NOT_PROMOTED = "it was accepted, but not promoted"
    REPLACED = "it served, and another version was promoted after it"


@dataclass(frozen=True)
class Standing:
    """The newest version and the champion, and what was decided about them last."""

    name: str
    place: Place
    newest: Version | None
    champion: Version | None
    decided: Event | None
    """The event that put the newest version where it is."""
    promoted: Event | None
    """The champion's last promotion."""
    failed: tuple[RuleResult, ...]
    """The rules of the gate that the newest version failed."""
    report: str
    """Address of the newest version's report, or ""."""


def standing_of(registry: Registry) -> Standing:
    """Ask the registry; raises RegistryError where it cannot be asked."""
    newest, champion = registry.newest(), registry.champion()
    events = registry.history()
    promoted = _last(events, champion, PROMOTED)
    if newest is None:
        return Standing(registry.name, Place.NONE, None, champion, None, promoted, (), "")
    verdict = newest.tags.get("verdict")
    was_promoted = _last(events, newest, PROMOTED)
    if champion is not None and champion.number == newest.number:
        place, decided = Place.SERVES, promoted
    elif verdict is None:
        place, decided = Place.NOT_JUDGED, None
    elif verdict != "accepted":
        place, decided = Place.REFUSED, _last(events, newest, REFUSED)
    elif was_promoted is not None:
        place, decided = Place.REPLACED, promoted
    else:
        place, decided = Place.NOT_PROMOTED, None
    failed = _failed(registry, newest) if place is Place.REFUSED else ()
    report = registry.page_of(newest.run_id, artifacts.REPORT)
    return Standing(registry.name, place, newest, champion, decided, promoted, failed, report)


def in_words(standing: Standing) -> Iterator[str]:
    """The standing as lines for people."""
    name, newest = standing.name, standing.newest
    if newest is None:
        yield f"nothing was registered of {name} yet: `image-classifier run` trains, judges and serves a first version"
        return
    if standing.champion is None:
        yield f"{name}: nothing serves"
    else:
        since = f" since {standing.promoted.time:%Y-%m-%d %H:%M} UTC" if standing.promoted else ""
        yield f"{name}: version {standing.champion.number} serves{since}"
    if standing.promoted is not None:
        yield f"  because     it was promoted by {standing.promoted.actor}: {standing.promoted.reason}"
    if standing.place is Place.SERVES:
        yield "  newest      it is the newest version"
        return
    made = f"version {newest.number}, of {newest.created:%Y-%m-%d %H:%M} UTC"
    yield f"  newest      {made}: {standing.place}"
    for finding in standing.failed:
        yield f"    FAIL  {finding.rule}: {finding.in_words}"
    if standing.decided is not None and not standing.failed:
        decided = standing.decided
        yield f"    on {decided.time:%Y-%m-%d %H:%M} UTC by {decided.actor}: {decided.reason}"
    yield f"  what to do  {_DO[standing.place].format(number=newest.number)}"
    if standing.report and standing.place is Place.REFUSED:
        yield f"  report      {standing.report}"


def to_json(standing: Standing) -> dict[str, Any]:
    """The standing for machines: {name, place, newest, champion, decided, failed, report}."""
    return {
        "name": standing.name,
        "place": standing.place.name.lower(),
        "newest": standing.newest and standing.newest.number,
        "champion": standing.champion and standing.champion.number,
        "since": _stamp(standing.promoted.time if standing.promoted else None),
        "decided": standing.decided and {**asdict(standing.decided), "time": _stamp(standing.decided.time)},
        "failed": [asdict(finding) for finding in standing.failed],
        "report": standing.report or None,
    }


_DO = {
    Place.NOT_JUDGED: "judge it: image-classifier gate",
    Place.REFUSED: "read the report, mend the data or train longer, or change a floor: image-classifier gate --help",
    Place.NOT_PROMOTED: "let it serve: image-classifier promote (on the platform the step accept does so)",
    Place.REPLACED: "to let it serve again: image-classifier promote --model {number}",
}


def _last(events: list[Event], version: Version | None, action: str) -> Event | None:
    """The newest event of an action about a version."""
    about = (event for event in events if version is not None and event.version == version.number)
    return next((event for event in about if event.action == action), None)


def _failed(registry: Registry, version: Version) -> tuple[RuleResult, ...]:
    content = registry.read_artifact(version.run_id, artifacts.VERDICT)
    found = [RuleResult(**item) for item in json.loads(content)["findings"]] if content else []
    return tuple(finding for finding in found if finding.outcome == RuleOutcome.FAIL)


def _stamp(time: datetime | None) -> str | None:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}" if time else None
