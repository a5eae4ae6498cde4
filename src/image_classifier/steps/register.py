"""The step `register`: register the evaluated package in MLflow."""

from image_classifier.attestation import Attestations
from image_classifier.errors import PackageError, RegistryError
from image_classifier.evaluation import Evaluation
from image_classifier.package import Package
from image_classifier.registry import Version
from image_classifier.settings import Settings
from image_classifier.steps.model_access import actor, open_registry
from image_classifier.steps.work_folder import WorkFolder
from image_classifier.text import Report


def register(settings: Settings, report: Report) -> Version:
    """Register the evaluated package as the candidate; repeating the step finds the registered version."""
    work = WorkFolder.of(settings)
    package = work.trained_package()
    evaluation = _evaluation_of(work, package)
    registry = open_registry(settings, report)
    trained_as = registry.runs.model_of(package.provenance["run_id"])
    if trained_as not in (None, registry.name):  # without a run, the upload says so
        raise RegistryError(
            f"the package in {work.package} was trained as {trained_as}, not as {registry.name}; give the --data of "
            f"its training, or --name {trained_as}"
        )
    attestations = Attestations.create(
        name=settings.name, actor=actor(), steps_image=settings.steps_image, signing_key=settings.signing_key
    )
    version = registry.versions.register(
        package.provenance["run_id"],
        work.package,
        accompany=lambda folder: attestations.write(folder, package, evaluation),
        tags={
            **attestations.tags,
            "fingerprint": package.provenance["fingerprint"],
            "package_digest": package.digest,
            "data_digest": package.provenance["data_digest"],
            "source_revision": package.provenance["source_revision"],
            "test_accuracy": f"{evaluation.accuracy:.4f}",
        },
    )
    work.write_registered(version)
    report(f"registered as {version.uri}")
    if not attestations.tags.items() <= version.tags.items():
        report(
            f"warning: version {version.number} was registered earlier without this signature; to sign it, train again "
            "with a new text for --retrain"
        )
    return version


def _evaluation_of(work: WorkFolder, package: Package) -> Evaluation:
    evaluation = Evaluation.from_json(work.evaluation.read_bytes()) if work.evaluation.exists() else None
    judged = (evaluation.package_digest, evaluation.data_digest) if evaluation else None
    if evaluation is None or judged != (package.digest, package.provenance["data_digest"]):
        raise PackageError(
            f"the package in {work.package} has not been evaluated; run `image-classifier evaluate` first"
        )
    return evaluation
