"""The history of a registered model: an event is appended to the version's tags, and never changed.

What served when follows from the events alone: a version serves from the event that made it the champion to the next
such event.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

PREFIX = "event."
PROMOTED, REFUSED, ROLLED_BACK, RELEASED, WATCHED = (
    "promoted",
    "refused",
    "rolled-back",
    "released",
    "watched",
)
MAKE_CHAMPION = (PROMOTED, ROLLED_BACK)
RETRAINING = "retraining"
"""A training was started while this version serves."""
LONGEST_REASON = 2000

_TIME = "%Y%m%dT%H%M%S%fZ"


@dataclass(frozen=True)
class Event:
    """Something that was decided about a version."""

    time: datetime
    action: str
    """promoted, refused, rolled-back (to this version), released (from a pin, or from a withdrawal), watched or
    retraining."""
    version: int
    actor: str
    reason: str
    from_version: int | None
    """The champion before."""
    image: str = ""
    """Server image, by its digest, that this version serves with; "" where it is not known, as on a laptop."""
    from_image: str = ""
    """Of a roll-back: the image that `from_version` served with, where this pair may not serve again."""

    def to_tag(self) -> tuple[str, str]:
        """Key and value of the tag; keys in order are events in order."""
        content = {
            "actor": self.actor,
            "reason": self.reason,
            "from_version": self.from_version,
            "image": self.image,
            "from_image": self.from_image,
        }
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
            # Earlier versions of this program did not write these.
            image=content.get("image", ""),
            from_image=content.get("from_image", ""),
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


def last_change(events: Sequence[Event]) -> Event | None:
    """Of events, the newest first, the last that made a champion."""
    return next((event for event in events if event.action in MAKE_CHAMPION), None)


def line_of_champions(events: Sequence[Event]) -> list[int]:
    """The versions that a roll-back can go through, oldest first; the last one is the champion.

    A promotion adds to the line, and a roll-back takes away what came after the version that it went to: who rolls
    back twice gets two versions back, not to where they were.
    """
    line: list[int] = []
    for event in reversed(events):
        if event.action == ROLLED_BACK and event.version in line:
            del line[line.index(event.version) + 1 :]
        elif event.action in MAKE_CHAMPION:
            line = [*(number for number in line if number != event.version), event.version]
    return line


def withdrawal(events: Sequence[Event], version: int, image: str) -> Event | None:
    """The roll-back that took this pair out of service, where it was not released since; events newest first."""
    for event in events:
        if (
            event.action == ROLLED_BACK
            and event.from_version == version
            and image
            and event.from_image == image
        ):
            return event
        # Who rolls back to a version wants it to serve, too.
        if event.action in (RELEASED, ROLLED_BACK) and event.version == version:
            return None
    return None


def served_until(events: Sequence[Event]) -> dict[Event, datetime | None]:
    """For each event that made a champion, when the next one did; None: it is the champion still."""
    changes = [event for event in events if event.action in MAKE_CHAMPION]
    return {event: changes[index - 1].time if index else None for index, event in enumerate(changes)}
