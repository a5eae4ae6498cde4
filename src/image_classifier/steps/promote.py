"""The step `promote`: make the accepted candidate the champion."""

from image_classifier.errors import RegistryError
from image_classifier.registry import Decision, Registry, Version
from image_classifier.settings import Settings
from image_classifier.steps.model_access import actor, open_registry
from image_classifier.text import Report


def promote(settings: Settings, report: Report) -> Version | None:
    """Make the candidate, or the version that `model` names, the champion if it was accepted; returns the champion."""
    registry = open_registry(settings, report)
    version = registry.versions.get(settings.model or "candidate")
    if version.decision is Decision.NOT_JUDGED:
        raise RegistryError(f"version {version.number} has not been judged; run `image-classifier gate` first")
    if version.decision is Decision.REFUSED:
        champion = registry.versions.champion()
        stays = f"version {champion.number} stays" if champion else "there is still no champion"
        report(f"version {version.number} was refused and is not promoted; {stays}")
        return champion
    promote_version(registry, version, image=settings.image, report=report)
    return registry.versions.champion()


def promote_version(registry: Registry, version: Version, *, image: str, report: Report) -> None:
    """Make an accepted version the champion, with the gate's reason."""
    verdict = registry.history.read_verdict(version)
    registry.history.promote(
        version, actor=actor(), reason=verdict.reason if verdict else "accepted by the gate", image=image
    )
    report(f"version {version.number} is the champion")
