"""Back to a version that served before: which one that is, whether it may serve, and what that changes.

A version that the gate refused cannot be rolled back to, and nothing forces it: it never answered as it was evaluated
at a real address. Whoever wants it changes the floors and lets it be judged again.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from image_classifier.errors import RegistryError
from image_classifier.registry.events import ROLLED_BACK, Event, last_change, line_of_champions
from image_classifier.registry.registry import Registry, Version

NO_REASON = "no reason was given"
_JUST_NOW = timedelta(minutes=2)
"""A second roll-back within it, of someone who did not see the first, would go one version further back."""


def roll_back_champion(registry: Registry, to: str, *, actor: str, reason: str) -> tuple[Version, Version]:
    """Make version `to`, or the one that served before, the champion; gives the champion before and the new one.

    Raises RegistryError where there is none, where it was not accepted, and where it is the champion already.
    """
    champion = registry.champion()
    if champion is None:
        raise RegistryError(
            f"no version of {registry.name} is the champion; there is nothing to roll back from"
        )
    events = registry.history()
    if to:
        version = acceptable(registry, to)
    else:
        check_alone(events)
        line = line_of_champions(events)
        earlier = line[: line.index(champion.number)] if champion.number in line else line
        if not earlier:
            raise RegistryError(
                f"version {champion.number} is the first champion of {registry.name} that is left; name another "
                "with --to (`image-classifier history` lists them)"
            )
        version = acceptable(registry, str(earlier[-1]))
    if version.number == champion.number:
        raise RegistryError(f"version {version.number} is the champion already")
    registry.roll_back(version, replaced=champion.number, actor=actor, reason=reason)
    return champion, version


def acceptable(registry: Registry, reference: str) -> Version:
    """A version that the gate accepted; raises RegistryError for one that it did not, or that is not there."""
    version = registry.get(reference)
    if version.name != registry.name:
        raise RegistryError(f"{version.uri} is no version of {registry.name}")
    verdict = version.tags.get("verdict", "not judged")
    if verdict != "accepted":
        raise RegistryError(
            f"version {version.number} is {verdict} by the gate and never served; judge it again with other floors "
            f"(`image-classifier gate --model {version.uri} --min-accuracy …`) before you roll back to it"
        )
    return version


def check_alone(events: Sequence[Event]) -> None:
    """Raise RegistryError where somebody else rolled back just now; events newest first."""
    last = last_change(events)
    if last is not None and last.action == ROLLED_BACK and datetime.now(UTC) - last.time < _JUST_NOW:
        raise RegistryError(
            f"{last.actor} rolled back to version {last.version} at {last.time:%H:%M:%S} UTC ({last.reason}); to go "
            "further back, name the version with --to"
        )


def side_by_side(registry: Registry, before: Version, after: Version) -> list[str]:
    """Lines of a table of the metrics that MLflow has of both versions' runs."""
    columns = [registry.metrics(before), registry.metrics(after)]
    # Those of each class, corruption and machine, as recall/cat, would be many.
    names = [name for name in columns[0] | columns[1] if "/" not in name]
    width = max((len(name) for name in names), default=0)
    lines = [f"{'':{width}}  {f'version {before.number}':>12}  {f'version {after.number}':>12}"]
    for name in sorted(names):
        figures = [f"{column[name]:.6g}" if name in column else "–" for column in columns]
        lines.append(f"{name:{width}}  {figures[0]:>12}  {figures[1]:>12}")
    return lines
