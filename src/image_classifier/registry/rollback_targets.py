"""Rollback targets: which version to return to, whether it may serve, and what changes.

A target must have served before, which its events say; a later judgement does not change that. A version that never
served is promoted instead, after the gate accepted it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from image_classifier.errors import RegistryError
from image_classifier.registry.decision import Decision
from image_classifier.registry.events import ROLLED_BACK, Event, has_served, last_change, line_of_champions
from image_classifier.registry.registry import Registry
from image_classifier.registry.versions import Version

NO_REASON = "no reason given"
_JUST_NOW = timedelta(minutes=2)
"""A second rollback within this time, by a person who did not see the first, would go back one version too many."""


def roll_back_champion(registry: Registry, to: str, *, actor: str, reason: str) -> tuple[Version, Version]:
    """Make version `to`, or by default the previous champion, the champion; returns the old and the new champion.

    Raises RegistryError if there is no such version, if it never served, or if it is already the champion.
    """
    registry.versions.check_name()
    champion = registry.versions.champion()
    if champion is None:
        raise RegistryError(f"{registry.name} has no champion to roll back from")
    events = registry.history.events()
    if to:
        version = require_served(registry, to)
    else:
        check_no_recent_rollback(events)
        line = line_of_champions(events)
        earlier = line[: line.index(champion.number)] if champion.number in line else line
        if not earlier:
            raise RegistryError(
                f"version {champion.number} is the first champion of {registry.name}; choose another version with "
                "--to (`image-classifier history` lists them)"
            )
        version = require_served(registry, str(earlier[-1]))
    if version.number == champion.number:
        raise RegistryError(f"version {version.number} is already the champion")
    registry.history.roll_back(version, replaced=champion.number, actor=actor, reason=reason)
    return champion, version


def require_served(registry: Registry, reference: str) -> Version:
    """The version, if it has served; raises RegistryError otherwise."""
    version = registry.versions.get(reference)
    if version.name != registry.name:
        raise RegistryError(f"{version.uri} is not a version of {registry.name}")
    if has_served(registry.history.events(), version.number):
        return version
    if version.decision is Decision.ACCEPTED:
        raise RegistryError(
            f"version {version.number} has never served; promote it instead: image-classifier promote --model "
            f"{version.number}"
        )
    raise RegistryError(
        f"version {version.number} is {version.decision} by the gate and was never live; to serve it, judge it again "
        f"with other thresholds (`image-classifier gate --model {version.uri} --min-accuracy …`)"
    )


def check_no_recent_rollback(events: Sequence[Event]) -> None:
    """Raise RegistryError if someone rolled back in the last two minutes; `events` are newest first."""
    last = last_change(events)
    if last is not None and last.action == ROLLED_BACK and datetime.now(UTC) - last.time < _JUST_NOW:
        raise RegistryError(
            f"{last.actor} rolled back to version {last.version} at {last.time:%H:%M:%S} UTC ({last.reason}); to go "
            "further back, choose the version with --to"
        )


def compare_metrics(registry: Registry, before: Version, after: Version) -> list[str]:
    """Lines of a table that compares the metrics of two versions' runs."""
    columns = [registry.runs.metrics(version.run_id) for version in (before, after)]
    # Without the metrics by class, corruption and machine, such as recall/cat, which are many.
    names = [name for name in columns[0] | columns[1] if "/" not in name]
    width = max((len(name) for name in names), default=0)
    lines = [f"{'':{width}}  {f'version {before.number}':>12}  {f'version {after.number}':>12}"]
    for name in sorted(names):
        values = [f"{column[name]:.6g}" if name in column else "–" for column in columns]
        lines.append(f"{name:{width}}  {values[0]:>12}  {values[1]:>12}")
    return lines
