"""The history of a registered model: an event is appended to the version's tags, and never changed."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

PREFIX = "event."
PROMOTED, REFUSED = "promoted", "refused"
RETRAINING = "retraining"
"""A training was started while this version serves."""
LONGEST_REASON = 2000

_TIME = "%Y%m%dT%H%M%S%fZ"


@dataclass(frozen=True)
class Event:
    """Something that was decided about a version."""

    time: datetime
    action: str
    """promoted, refused or retraining."""
    version: int
    actor: str
    reason: str
    from_version: int | None
    """The champion before."""

    def to_tag(self) -> tuple[str, str]:
        """Key and value of the tag; keys in order are events in order."""
        content = {"actor": self.actor, "reason": self.reason, "from_version": self.from_version}
        return f"{PREFIX}{self.time.strftime(_TIME)}.{self.action}", json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_tag(cls, version: int, key: str, value: str) -> "Event":
        stamp, action = key.removeprefix(PREFIX).split(".", 1)
        content = json.loads(value)
        return cls(
            time=datetime.strptime(stamp, _TIME).replace(tzinfo=UTC),
            action=action,
            version=version,
            actor=content["actor"],
            reason=content["reason"],
            from_version=content["from_version"],
        )


def events_of(tags_of_versions: Iterable[tuple[int, Mapping[str, str]]]) -> list[Event]:
    """The events among the tags of versions, the newest first."""
    events = [
        Event.from_tag(version, key, value)
        for version, tags in tags_of_versions
        for key, value in tags.items()
        if key.startswith(PREFIX)
    ]
    return sorted(events, key=lambda event: event.time, reverse=True)
