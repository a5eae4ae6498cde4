"""Lineage: which version served when, and its commit, data, run and metrics."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from image_classifier.registry.events import JUDGED, MAKE_CHAMPION, ROLLED_BACK, WATCHED, Event, served_until
from image_classifier.registry.registry import Registry

_DIGEST_CHARACTERS = 12


@dataclass(frozen=True)
class Entry:
    """An event, with the origin and the metrics of its version."""

    event: Event
    served_until: datetime | None
    """When the next version took over, for an event that made a champion; None: it still serves."""
    source_revision: str
    data_digest: str
    run_id: str
    metrics: Mapping[str, float]
    """Of the run, as MLflow has them."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, flat, with ISO 8601 times; `served_until` and `verdict` only for the events that have them."""
        known = {**asdict(self), **asdict(self.event)}
        del known["event"]
        if not self._makes_champion:
            del known["served_until"]
        if not self.event.verdict:
            del known["verdict"]
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in known.items()}

    def lines(self) -> list[str]:
        """The event for people: what and why, and where the version came from."""
        event = self.event
        replaced = f", replacing {event.from_version}" if event.from_version and self._makes_champion else ""
        headline = f"{event.time:%Y-%m-%d %H:%M:%S} UTC  {self._what}{replaced} by {event.actor}: {event.reason}"
        if not self._makes_champion:
            serving = ("", "")
        elif self.served_until is None:
            serving = ("serves", "now")
        else:
            serving = ("served until", f"{self.served_until:%Y-%m-%d %H:%M:%S} UTC")
        accuracy = self.metrics.get("test_accuracy")
        details = [
            serving,
            ("commit", _short(self.source_revision)),
            ("data", _short(self.data_digest)),
            ("run", self.run_id),
            ("image", _short(event.image)),
            ("previous image", _short(event.from_image)),
            ("accuracy", "" if accuracy is None else f"{100 * accuracy:.2f} %"),
        ]
        return [headline, "    " + ", ".join(f"{name} {value}" for name, value in details if value)]

    @property
    def _what(self) -> str:
        version, action = self.event.version, self.event.action
        if action == ROLLED_BACK:
            return f"rolled back to {version}"
        shown = {WATCHED: "watched and kept", JUDGED: f"judged again, {self.event.verdict},"}
        return f"version {version} {shown.get(action, action)}"

    @property
    def _makes_champion(self) -> bool:
        return self.event.action in MAKE_CHAMPION


def entries(registry: Registry) -> list[Entry]:
    """The whole history of a registered model, the newest event first."""
    events = registry.history.events()
    until = served_until(events)
    versions = {version.number: version for version in registry.versions.all()}
    metrics = {number: registry.runs.metrics(versions[number].run_id) for number in {event.version for event in events}}
    return [
        Entry(
            event,
            until.get(event),
            versions[event.version].tags.get("source_revision", ""),
            versions[event.version].tags.get("data_digest", ""),
            versions[event.version].run_id,
            metrics[event.version],
        )
        for event in events
    ]


def _short(digest: str) -> str:
    """The start of a digest without its prefix: main@sha1:8e131590b374…, server@sha256:dd9a247dfe4d…."""
    return digest.rpartition(":")[2][:_DIGEST_CHARACTERS]
