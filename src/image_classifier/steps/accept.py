"""The step `accept`: try the candidate at its address, and promote it if it answers as in its evaluation."""

from dataclasses import replace

from image_classifier.errors import RegistryError
from image_classifier.evaluation import held_out_from_json
from image_classifier.platform import ExpectedServer, try_candidate
from image_classifier.registry import Decision, artifact_paths, withdrawal
from image_classifier.settings import Settings
from image_classifier.steps.model_access import fetch_version, open_registry
from image_classifier.steps.promote import promote_version
from image_classifier.steps.results import write_results
from image_classifier.text import Report


def accept(settings: Settings, report: Report) -> None:
    """Try the candidate, or the version that `model` names, at `url`, and make it the champion.

    Raises RegistryError for a version that the gate did not accept, and AcceptanceError if the candidate's answers
    differ from those in its evaluation. A pair of image and version that was rolled back is refused, which is a result,
    not an error.
    """
    registry = open_registry(settings, report)
    version = registry.versions.get(settings.model or "candidate")
    if version.decision is not Decision.ACCEPTED:
        raise RegistryError(f"version {version.number} is {version.decision} by the gate and cannot be served")
    pair = {
        "image": settings.image,
        "model-uri": registry.versions.address_of(version),
        "model-version": str(version.number),
    }
    if rolled_back := withdrawal(registry.history.events(), version.number, settings.image):
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
    promote_version(registry, version, image=settings.image, report=report)
    write_results(settings.results, {"verdict": Decision.ACCEPTED, "reason": reason, **pair})
