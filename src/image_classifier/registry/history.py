"""Decisions about versions: verdicts, promotions and rollbacks, each recorded as an event."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from image_classifier.errors import ChampionChangedError
from image_classifier.registry import artifact_paths
from image_classifier.registry.decision import Decision, RecordedVerdict
from image_classifier.registry.events import (
    JUDGED,
    LONGEST_REASON,
    MAKE_CHAMPION,
    PROMOTED,
    RELEASED,
    RETRAINING,
    ROLLED_BACK,
    WATCHED,
    Event,
    events_of,
    has_served,
    last_change,
    line_of_champions,
    withdrawal,
)
from image_classifier.registry.runs import Runs
from image_classifier.registry.store import Store
from image_classifier.registry.versions import CHAMPION, PREVIOUS, VERDICT_TAG, Version, Versions
from image_classifier.text import clip

JUDGED_AGAINST_TAG = "judged_against"
NO_CHAMPION = "none"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Judgement:
    """The newest judgement of a version."""

    decision: Decision
    reason: str
    against: str
    """Number of the champion that it was compared with, NO_CHAMPION, or UNKNOWN, as version 0.1 did not record it."""


class History:
    """Changes the champion and records who decided what and why. Raises RegistryError if the store cannot be used."""

    def __init__(self, store: Store, versions: Versions, runs: Runs) -> None:
        self._store, self._versions, self._runs = store, versions, runs

    def events(self) -> list[Event]:
        """All events, the newest first."""
        return events_of((int(raw.version), raw.tags) for raw in self._versions.search_all())

    def record_verdict(
        self, version: Version, verdict: RecordedVerdict, *, actor: str, against: int | None = None, report: str = ""
    ) -> str:
        """Store the gate's verdict on a version, compared with the champion `against`, and its HTML report if any.

        Returns the path of the report among the artifacts of the run. A version that has served keeps its verdict and
        its report, as they explain why it served: a later judgement is an event, with artifacts of its own.
        """
        events = self.events()
        if has_served(events, version.number):
            return self._append_judgement(version, verdict, events, actor=actor, against=against, report=report)
        self._log_verdict(version, verdict, report, artifact_paths.VERDICT, artifact_paths.REPORT)
        if verdict.decision is not Decision.ACCEPTED:
            last = next((event for event in events if event.version == version.number), None)
            # The same decision for the same reason is one event.
            if last is None or (last.action, last.reason) != (verdict.decision, clip(verdict.reason, LONGEST_REASON)):
                self._append(version, verdict.decision, actor, verdict.reason, against)
        # The verdict first: after an interruption in between, the version is judged again.
        self._versions.set_tags(version, {VERDICT_TAG: verdict.decision})
        self._versions.set_tags(version, {JUDGED_AGAINST_TAG: _key(against)})
        return artifact_paths.REPORT

    def judgement(self, version: Version) -> Judgement:
        """The newest judgement of a version; by it a version is promoted or not."""
        version = self._versions.get(str(version.number))
        judged = _last_judgement(self.events(), version)
        if judged is not None:
            return Judgement(Decision(judged.verdict), judged.reason, _key(judged.from_version))
        verdict = self.read_verdict(version)
        reason = verdict.reason if verdict else f"{version.decision} by the gate"
        return Judgement(version.decision, reason, version.tags.get(JUDGED_AGAINST_TAG, UNKNOWN))

    def read_verdict(self, version: Version) -> RecordedVerdict | None:
        """The recorded verdict of a version, None if it was not judged or judged without a report."""
        content = self._runs.read_artifact(version.run_id, artifact_paths.VERDICT)
        return RecordedVerdict.from_dict(json.loads(content)) if content else None

    def promote(self, version: Version, *, actor: str, reason: str, image: str = "", judged_against: str = "") -> None:
        """Make a version the champion, and the champion before it the previous; repeating the call changes nothing.

        Another server `image` than before is recorded as an event, although the champion stays.

        With `judged_against`, as in `Judgement`, it is a compare-and-swap: raises ChampionChangedError if another
        version is the champion. A local registry is locked meanwhile. An MLflow server has no such operation: two
        promotions that begin within some 100 ms may both write. Both then read the events, and the one that missed the
        other is taken back. Until then readers may see it, and if its process is killed before, it stays.
        """
        # Order of writes: previous, champion, event. An interruption before the second leaves the champion as it was;
        # after one before the third, repeating the call appends the missing event.
        if not self._is_champion(version):
            self._versions.require_complete(version, "promoted")
        with self._store.lock():
            events, before = self.events(), self._versions.champion()
            if before is not None and before.number == version.number:
                last = last_change(events)
                if last is None or last.version != version.number:
                    with self._store.failures(f"cannot read the aliases of {self._versions.name}"):
                        replaced = self._versions.aliases(self._versions.name).get(PREVIOUS)
                    self._append(version, PROMOTED, actor, reason, replaced, image=image)
                elif image and last.image != image:
                    self._append(version, PROMOTED, actor, reason, version.number, image=image)
                return
            found = _key(before.number if before else None)
            if judged_against not in ("", found):
                raise ChampionChangedError(
                    f"version {version.number} was judged against {_shown(judged_against)}, but {_shown(found)} is the "
                    f"champion; judge it again: image-classifier gate --model {version.number}"
                )
            if before is not None:
                self._versions.set_alias(PREVIOUS, before)
            self._versions.set_alias(CHAMPION, version)
            self._append(version, PROMOTED, actor, reason, before.number if before else None, image=image)
            if judged_against:
                self._undo_if_overtaken(version, events, actor)

    def roll_back(
        self, version: Version, *, replaced: int, actor: str, reason: str, image: str = "", from_image: str = ""
    ) -> None:
        """Make a version that served before the champion again, in place of version `replaced`.

        `image` is the server image that it serves with. With `from_image`, the pair of `replaced` and that image may
        not serve again until it is released. Repeating the call completes an interrupted one, or changes nothing.
        """
        with self._store.lock():
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

    def _append_judgement(
        self,
        version: Version,
        verdict: RecordedVerdict,
        events: Sequence[Event],
        *,
        actor: str,
        against: int | None,
        report: str,
    ) -> str:
        last = _last_judgement(events, version)
        same = (str(verdict.decision), against, clip(verdict.reason, LONGEST_REASON))
        if last is not None and (last.verdict, last.from_version, last.reason) == same:
            return artifact_paths.judged_later(last.time)[1]
        now = datetime.now(UTC)
        verdict_path, report_path = artifact_paths.judged_later(now)
        self._log_verdict(version, verdict, report, verdict_path, report_path)
        self._append(version, JUDGED, actor, verdict.reason, against, time=now, verdict=str(verdict.decision))
        return report_path

    def _log_verdict(
        self, version: Version, verdict: RecordedVerdict, report: str, verdict_path: str, report_path: str
    ) -> None:
        if report:
            with self._runs.resume(version.run_id) as run:
                run.log_text(report, report_path)
                run.log_text(json.dumps(verdict.to_dict(), indent=1), verdict_path)

    def _undo_if_overtaken(self, version: Version, known: Sequence[Event], actor: str) -> None:
        """Take a promotion back if, after `known` was read, a version that was not judged against it was promoted.

        Raises ChampionChangedError then.
        """
        events = self.events()
        change = last_change(events)
        others = [
            event
            for event in events
            if event.action in MAKE_CHAMPION
            and version.number not in (event.version, event.from_version)
            and event not in known
        ]
        returned = change is not None and (change.action, change.version) == (ROLLED_BACK, version.number)
        champion = self._versions.champion()
        if not others or returned or champion is None:
            return
        if champion.number == version.number:
            champion = self._versions.get(str(others[0].version))
            self._versions.set_alias(CHAMPION, champion)
        reason = f"version {version.number} was promoted at the same time, without being judged against this version"
        self._append(champion, ROLLED_BACK, actor, reason, version.number)
        raise ChampionChangedError(f"version {champion.number} became the champion while {version.number} was promoted")

    def _is_champion(self, version: Version) -> bool:
        champion = self._versions.champion()
        return champion is not None and champion.number == version.number

    def _append(
        self,
        version: Version,
        action: str,
        actor: str,
        reason: str,
        from_version: int | None,
        *,
        time: datetime | None = None,
        **others: str,
    ) -> None:
        clipped = clip(reason, LONGEST_REASON)
        event = Event(time or datetime.now(UTC), action, version.number, actor, clipped, from_version, **others)
        self._versions.set_tags(version, dict([event.to_tag()]))


def _last_judgement(events: Sequence[Event], version: Version) -> Event | None:
    """The newest judgement of a version after it served; `events` are newest first."""
    return next((event for event in events if (event.action, event.version) == (JUDGED, version.number)), None)


def _key(champion: int | None) -> str:
    return NO_CHAMPION if champion is None else str(champion)


def _shown(key: str) -> str:
    return {NO_CHAMPION: "no version", UNKNOWN: "an unknown version"}.get(key, f"version {key}")
