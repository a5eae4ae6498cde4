"""Events in the history of a registered model: appended to a version's tags, never changed.

What served when follows from the events alone: a version serves from the event that made it the champion to the next.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

PREFIX = "event."
PROMOTED = "promoted"
REFUSED = "refused"
HELD = "held"
"""Not promoted, as there was not enough evidence."""
JUDGED = "judged"
"""A judgement of a version that has served, whose first verdict stays as it is."""
ROLLED_BACK = "rolled-back"
"""To this version."""
RELEASED = "released"
"""From a pin, or after a rollback from it."""
WATCHED = "watched"
RETRAINING = "retraining"
"""A training started while this version served."""
MAKE_CHAMPION = (PROMOTED, ROLLED_BACK)

LONGEST_REASON = 2000  # characters
_TIME = "%Y%m%dT%H%M%S%fZ"
_STORED = ("actor", "reason", "from_version", "image", "from_image", "verdict")
"""Fields in the value of a tag; its key holds the others."""


@dataclass(frozen=True)
class Event:
    """A decision about a version."""

    time: datetime
    action: str
    """One of the constants above."""
    version: int
    actor: str
    reason: str
    from_version: int | None
    """The champion before."""
    image: str = ""
    """Server image, with its digest, that this version serves with; "" if unknown, as on a laptop."""
    from_image: str = ""
    """For a rollback: the image of `from_version`, if this pair may not serve again."""
    verdict: str = ""
    """For a judgement: the gate's decision, about this version against the champion `from_version`."""

    def to_tag(self) -> tuple[str, str]:
        """Key and value of the tag; sorted keys give the events in order."""
        content = {name: getattr(self, name) for name in _STORED if name != "verdict" or self.verdict}
        return f"{PREFIX}{self.time.strftime(_TIME)}.{self.action}", json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_tag(cls, version: int, key: str, value: str) -> "Event":
        stamp, action = key.removeprefix(PREFIX).split(".", 1)
        content = json.loads(value)
        # The first events of version 0.1 have no images, and only judgements have a verdict.
        known = {name: content[name] for name in _STORED if name in content}
        return cls(datetime.strptime(stamp, _TIME).replace(tzinfo=UTC), action, version, **known)


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
    """The most recent event that made a champion; `events` are newest first."""
    return next((event for event in events if event.action in MAKE_CHAMPION), None)


def last_replacement(events: Sequence[Event]) -> Event | None:
    """The most recent event by which another version became the champion; `events` are newest first."""
    changes = (event for event in events if event.action in MAKE_CHAMPION)
    return next((event for event in changes if event.version != event.from_version), None)


def has_served(events: Iterable[Event], version: int) -> bool:
    """Whether a version was the champion at any time."""
    return any(event.action in MAKE_CHAMPION and event.version == version for event in events)


def line_of_champions(events: Sequence[Event]) -> list[int]:
    """The champions that a rollback can return to, oldest first; the last one is the current champion.

    A promotion adds to the line, and a rollback removes the versions after its target: two go back two versions.
    """
    line: list[int] = []
    for event in reversed(events):
        if event.action == ROLLED_BACK and event.version in line:
            del line[line.index(event.version) + 1 :]
        elif event.action in MAKE_CHAMPION:
            line = [*(number for number in line if number != event.version), event.version]
    return line


def withdrawal(events: Sequence[Event], version: int, image: str) -> Event | None:
    """The rollback that took this pair out of service, unless it was released since; `events` are newest first."""
    for event in events:
        if event.action == ROLLED_BACK and event.from_version == version and image and event.from_image == image:
            return event
        # A rollback to a version also allows it to serve.
        if event.action in (RELEASED, ROLLED_BACK) and event.version == version:
            return None
    return None


def served_until(events: Sequence[Event]) -> dict[Event, datetime | None]:
    """For each event that made a champion, the time of the next such event; None for the current champion."""
    changes = [event for event in events if event.action in MAKE_CHAMPION]
    return {event: changes[index - 1].time if index else None for index, event in enumerate(changes)}
