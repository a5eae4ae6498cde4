"""The step `promote`: make the accepted candidate the champion."""

from dataclasses import replace

from image_classifier.errors import ChampionChangedError, RegistryError
from image_classifier.registry import Decision, Judgement, Registry, Version, has_served
from image_classifier.settings import OptionalPath, Settings
from image_classifier.steps.gate import gate
from image_classifier.steps.model_access import actor, open_registry, version_to_judge
from image_classifier.text import Report

_MAX_JUDGEMENTS = 5  # of one version, while others become champions


def promote(settings: Settings, report: Report) -> Version | None:
    """Make the judged version the champion if it was accepted; returns the champion.

    It is the version that `model` names, else the one that `register` handed on, else the candidate. Raises
    RegistryError for a version that has not been judged, and for one that served until another one replaced it.
    """
    registry = open_registry(settings, report)
    version = version_to_judge(settings, registry)
    judgement = registry.history.judgement(version)
    if judgement.decision is Decision.NOT_JUDGED:
        raise RegistryError(f"version {version.number} has not been judged; run `image-classifier gate` first")
    champion = registry.versions.champion()
    if (
        judgement.decision is Decision.ACCEPTED
        and champion is not None
        and version.number != champion.number
        and judgement.against != str(champion.number)
        and has_served(registry.history.events(), version.number)
    ):
        raise RegistryError(
            f"version {version.number} served before, and was not judged against version {champion.number}, the "
            f"champion; to return to it: image-classifier rollback --to {version.number}"
        )
    promote_if_accepted(settings, registry, version, report)
    return registry.versions.champion()


def promote_if_accepted(settings: Settings, registry: Registry, version: Version, report: Report) -> Judgement:
    """Make a judged version the champion if it was accepted; returns the judgement that decided.

    If another version has become the champion since, the version is judged against it first.
    """
    judgement = registry.history.judgement(version)
    for _ in range(_MAX_JUDGEMENTS):
        if judgement.decision is not Decision.ACCEPTED:
            champion = registry.versions.champion()
            stays = f"version {champion.number} stays" if champion else "there is still no champion"
            report(f"version {version.number} was {judgement.decision} and is not promoted; {stays}")
            return judgement
        try:
            registry.history.promote(
                version, actor=actor(), reason=judgement.reason, image=settings.image, judged_against=judgement.against
            )
        except ChampionChangedError:
            report(f"version {version.number} was not judged against the present champion; judging it again")
            gate(replace(settings, model=str(version.number), results=OptionalPath("")), report)
            judgement = registry.history.judgement(version)
        else:
            report(f"version {version.number} is the champion")
            return judgement
    raise RegistryError(
        f"the champion changed {_MAX_JUDGEMENTS} times while version {version.number} was judged; promote it later"
    )
