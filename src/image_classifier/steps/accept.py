"""The step `accept`: try the candidate at its address, and promote it if it answers as in its evaluation."""

from dataclasses import replace

from image_classifier.errors import RegistryError
from image_classifier.evaluation import held_out_from_json
from image_classifier.platform import ExpectedServer, try_candidate
from image_classifier.registry import (
    ROLLED_BACK,
    Decision,
    Judgement,
    Registry,
    Version,
    artifact_paths,
    has_served,
    last_replacement,
    withdrawal,
)
from image_classifier.settings import Settings
from image_classifier.steps.model_access import actor, fetch_version, open_registry, version_to_judge
from image_classifier.steps.promote import promote_if_accepted
from image_classifier.steps.results import write_results
from image_classifier.text import Report


def accept(settings: Settings, report: Report) -> None:
    """Try the version that `model` names, else the candidate, at `url`, and make it the champion.

    If another version became the champion since it was judged, it is judged against that one first; a version that the
    workload pins is not. Raises RegistryError for a version that the gate did not accept and that never served, and
    AcceptanceError if its answers differ from those in its evaluation. A pair of image and version that was rolled back
    is refused, which is a result, not an error.
    """
    registry = open_registry(settings, report)
    version = version_to_judge(settings, registry)
    events = registry.history.events()
    if version.decision is not Decision.ACCEPTED and not has_served(events, version.number):
        raise RegistryError(f"version {version.number} is {version.decision} by the gate and cannot be served")
    pair = {
        "image": settings.image,
        "model-uri": registry.versions.address_of(version),
        "model-version": str(version.number),
    }
    if rolled_back := withdrawal(events, version.number, settings.image):
        reason = (
            f"version {version.number} was rolled back by {rolled_back.actor} at "
            f"{rolled_back.time:%Y-%m-%d %H:%M:%S} UTC: {rolled_back.reason}; `image-classifier rollback --release` "
            "allows it again"
        )
        report(reason)
        write_results(settings.results, {"verdict": Decision.REFUSED, "reason": reason, **pair})
        return
    package = fetch_version(settings, registry, version)
    held_out = registry.runs.read_artifact(version.run_id, artifact_paths.HELD_OUT)
    if held_out is not None:
        package = replace(package, golden=package.golden + held_out_from_json(held_out))
    trial = try_candidate(
        settings.url,
        package,
        ExpectedServer(str(version.number), settings.image),
        max_latency=settings.max_latency,
        timeout=settings.accept_timeout,
        report=report,
    )
    reason = (
        f"{trial.images} held-out images answered as recorded (largest difference {trial.largest_difference:.1g}), "
        f"p95 latency {trial.latency_p95 * 1e3:.0f} ms"
    )
    report(f"version {version.number}: {reason}")
    judgement = _promote(settings, registry, version, report)
    if judgement.decision is not Decision.ACCEPTED:
        reason = judgement.reason
    write_results(settings.results, {"verdict": judgement.decision, "reason": reason, **pair})


def _promote(settings: Settings, registry: Registry, version: Version, report: Report) -> Judgement:
    """Make the version the champion, unless the gate prefers another one that became the champion meanwhile."""
    champion, events = registry.versions.champion(), registry.history.events()
    change = last_replacement(events)
    is_return = change is not None and (change.action, change.from_version) == (ROLLED_BACK, version.number)
    pinned = settings.pinned == "yes"
    if champion is None or not (pinned or is_return or champion.number == version.number):
        return promote_if_accepted(settings, registry, version, report)
    judgement = replace(registry.history.judgement(version), decision=Decision.ACCEPTED)
    if pinned and champion.number != version.number and has_served(events, version.number):
        registry.history.roll_back(
            version, replaced=champion.number, actor=actor(), reason="pinned by the workload", image=settings.image
        )
    else:
        registry.history.promote(version, actor=actor(), reason=judgement.reason, image=settings.image)
    report(f"version {version.number} is the champion")
    return judgement
