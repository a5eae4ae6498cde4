"""What served when, and where it came from: the history's events with what the registry knows of their versions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from image_classifier.registry.events import MAKE_CHAMPION, Event, served_until
from image_classifier.registry.registry import Registry

_DIGEST_CHARACTERS = 12
_ACTIONS = {"rolled-back": "rolled back to", "watched": "watched and kept"}


@dataclass(frozen=True)
class Entry:
    """An event, and the origins and metrics of the version that it is about."""

    event: Event
    served_until: datetime | None
    """When the next version came, of an event that made a champion; None: it serves still."""
    source_revision: str
    data_digest: str
    run_id: str
    metrics: Mapping[str, float]
    """Of the run, as MLflow has them."""

    def to_dict(self) -> dict[str, Any]:
        """All of it, flat, with times as ISO 8601; `served_until` only where the event made a champion."""
        known = {**asdict(self), **asdict(self.event)}
        del known["event"]
        if self.event.action not in MAKE_CHAMPION:
            del known["served_until"]
        return {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in known.items()
        }

    def lines(self) -> list[str]:
        """The event in words: what, why, and where it came from; "" is left out."""
        event = self.event
        action = _ACTIONS.get(event.action, event.action)
        before = f", in place of {event.from_version}" if event.from_version and self._changed else ""
        what = (
            f"version {event.version} {action}"
            if event.action != "rolled-back"
            else f"{action} {event.version}"
        )
        said = [f"{event.time:%Y-%m-%d %H:%M:%S}  {what}{before} by {event.actor}: {event.reason}"]
        origins = [
            ("served until", f"{self.served_until:%Y-%m-%d %H:%M:%S}" if self.served_until else ""),
            ("commit", _short(self.source_revision)),
            ("data", _short(self.data_digest)),
            ("run", self.run_id),
            ("image", _short(event.image)),
            ("instead of image", _short(event.from_image)),
            ("accuracy", f"{self.metrics['test_accuracy']:.2%}" if "test_accuracy" in self.metrics else ""),
        ]
        if self._changed and self.served_until is None:
            origins[0] = ("serves", "now")
        said.append("    " + ", ".join(f"{name} {value}" for name, value in origins if value))
        return said

    @property
    def _changed(self) -> bool:
        return self.event.action in MAKE_CHAMPION


def _short(digest: str) -> str:
    """The beginning of a digest, without what it is of: main@sha1:8e131590b374… and server@sha256:dd9a247dfe4d…"""
    return digest.rpartition(":")[2][:_DIGEST_CHARACTERS]


def entries(registry: Registry) -> list[Entry]:
    """All that was decided about the versions of a registered model, the newest first."""
    events = registry.history()
    until = served_until(events)
    versions = {version.number: version for version in registry.versions()}
    metrics = {number: registry.metrics(versions[number]) for number in {event.version for event in events}}
    found = []
    for event in events:
        version = versions[event.version]
        found.append(
            Entry(
                event,
                until.get(event),
                version.tags.get("source_revision", ""),
                version.tags.get("data_digest", ""),
                version.run_id,
                metrics[event.version],
            )
        )
    return found
