"""Decisions about versions: verdicts, promotions and rollbacks, each recorded as an event."""

import json
from datetime import UTC, datetime

from image_classifier.registry import artifact_paths
from image_classifier.registry.decision import Decision, RecordedVerdict
from image_classifier.registry.events import (
    LONGEST_REASON,
    PROMOTED,
    REFUSED,
    RELEASED,
    RETRAINING,
    ROLLED_BACK,
    WATCHED,
    Event,
    events_of,
    last_change,
    line_of_champions,
    withdrawal,
)
from image_classifier.registry.runs import Runs
from image_classifier.registry.store import Store
from image_classifier.registry.versions import CHAMPION, PREVIOUS, VERDICT_TAG, Version, Versions
from image_classifier.text import clip


class History:
    """Changes the champion and records who decided what and why. Raises RegistryError if the store cannot be used."""

    def __init__(self, store: Store, versions: Versions, runs: Runs) -> None:
        self._store, self._versions, self._runs = store, versions, runs

    def events(self) -> list[Event]:
        """All events, the newest first."""
        return events_of((int(raw.version), raw.tags) for raw in self._versions.search_all())

    def record_verdict(self, version: Version, verdict: RecordedVerdict, *, actor: str, report: str = "") -> None:
        """Store the gate's verdict, and its HTML report if there is one, with the version.

        The tag, by which every other step decides, is written last.
        """
        if report:
            with self._runs.resume(version.run_id) as run:
                run.log_text(report, artifact_paths.REPORT)
                run.log_text(json.dumps(verdict.to_dict(), indent=1), artifact_paths.VERDICT)
        if verdict.decision is Decision.REFUSED:
            self._refuse(version, actor=actor, reason=verdict.reason)
        self._versions.set_tags(version, {VERDICT_TAG: verdict.decision})

    def read_verdict(self, version: Version) -> RecordedVerdict | None:
        """The recorded verdict of a version, None if it was not judged or judged without a report."""
        content = self._runs.read_artifact(version.run_id, artifact_paths.VERDICT)
        return RecordedVerdict.from_dict(json.loads(content)) if content else None

    def promote(self, version: Version, *, actor: str, reason: str, image: str = "") -> None:
        """Make a version the champion, and the champion before it the previous; repeating the call changes nothing.

        Another server `image` than before is recorded as an event, although the champion stays.
        """
        # Order of writes: previous, champion, event. An interruption before the second leaves the champion as it was;
        # after one before the third, repeating the call appends the missing event.
        before = self._versions.champion()
        if before is not None and before.number == version.number:
            last = last_change(self.events())
            if last is None or last.version != version.number:
                with self._store.failures(f"cannot read the aliases of {self._versions.name}"):
                    replaced = self._versions.aliases(self._versions.name).get(PREVIOUS)
                self._append(version, PROMOTED, actor, reason, replaced, image=image)
            elif image and last.image != image:
                self._append(version, PROMOTED, actor, reason, version.number, image=image)
            return
        self._versions.require_complete(version, "promoted")
        if before is not None:
            self._versions.set_alias(PREVIOUS, before)
        self._versions.set_alias(CHAMPION, version)
        self._append(version, PROMOTED, actor, reason, before.number if before else None, image=image)

    def roll_back(
        self, version: Version, *, replaced: int, actor: str, reason: str, image: str = "", from_image: str = ""
    ) -> None:
        """Make a version that served before the champion again, in place of version `replaced`.

        `image` is the server image that it serves with. With `from_image`, the pair of `replaced` and that image may
        not serve again until it is released. Repeating the call completes an interrupted one, or changes nothing.
        """
        events = self.events()
        last = last_change(events)
        done = last is not None and (last.action, last.version) == (ROLLED_BACK, version.number)
        if done and (not from_image or withdrawal(events, replaced, from_image)):
            return
        self._versions.require_complete(version, "rolled back to")
        # In the order of `promote`, for the same reasons.
        line = line_of_champions(events)
        earlier = line[: line.index(version.number)] if version.number in line else line
        if earlier:
            self._versions.set_alias(PREVIOUS, self._versions.get(str(earlier[-1])))
        else:
            self._versions.remove_alias(PREVIOUS)
        self._versions.set_alias(CHAMPION, version)
        self._append(version, ROLLED_BACK, actor, reason, replaced, image=image, from_image=from_image)

    def release(self, version: Version, *, actor: str, reason: str, image: str = "") -> None:
        """Record that a version that was rolled back from may serve again."""
        champion = self._versions.champion()
        self._append(version, RELEASED, actor, reason, champion.number if champion else None, image=image)

    def record_watch(self, version: Version, *, actor: str, reason: str, image: str, from_version: int | None) -> None:
        """Record the observation of a version's roll-out, next to `from_version`, that left it in service."""
        self._append(version, WATCHED, actor, reason, from_version, image=image)

    def record_retraining(self, version: Version, *, actor: str, reason: str) -> None:
        """Record that a training starts while a version, the champion, serves."""
        self._append(version, RETRAINING, actor, reason, None)

    def _refuse(self, version: Version, *, actor: str, reason: str) -> None:
        """Append a refusal, unless the newest event of the version is a refusal for the same reason."""
        last = next((event for event in self.events() if event.version == version.number), None)
        if last is None or (last.action, last.reason) != (REFUSED, clip(reason, LONGEST_REASON)):
            champion = self._versions.champion()
            self._append(version, REFUSED, actor, reason, champion.number if champion else None)

    def _append(
        self, version: Version, action: str, actor: str, reason: str, from_version: int | None, **images: str
    ) -> None:
        clipped = clip(reason, LONGEST_REASON)
        event = Event(datetime.now(UTC), action, version.number, actor, clipped, from_version, **images)
        self._versions.set_tags(version, dict([event.to_tag()]))
