"""The step `evaluate`: evaluate the trained package on the test part."""

from image_classifier.datasets import Dataset
from image_classifier.errors import DataError
from image_classifier.evaluation import (
    CORRUPTIONS,
    Evaluation,
    choose_examples,
    held_out_images,
    held_out_to_json,
    measure,
    plot_confusion_matrix,
    plot_reliability,
)
from image_classifier.files import write_atomically
from image_classifier.package import Model, Package
from image_classifier.process import available_cpus
from image_classifier.registry import Registry, artifact_paths
from image_classifier.settings import Settings
from image_classifier.steps.data import data
from image_classifier.steps.model_access import open_registry
from image_classifier.steps.work_folder import WorkFolder
from image_classifier.text import Report


def evaluate(settings: Settings, report: Report) -> Evaluation:
    """Evaluate the trained package on the test part of its data, unless its recorded evaluation is current.

    Raises DataError if the data is not the data that the package was trained on, or is split in another way.
    """
    work = WorkFolder.of(settings)
    package = work.trained_package()
    registry = open_registry(settings, report)
    dataset = data(settings, report, image_size=package.image_size, framing=package.framing)
    _require_data_of(package, dataset, settings)
    recorded = registry.runs.read_artifact(package.provenance["run_id"], artifact_paths.EVALUATION)
    evaluation = Evaluation.from_json(recorded) if recorded else None
    if evaluation is None or not _is_current(evaluation, package, settings):
        evaluation = _evaluate_and_record(settings, registry, package, dataset)
    write_atomically(work.evaluation, evaluation.to_json().encode())
    low, high = evaluation.accuracy_interval
    report(
        f"evaluated on {evaluation.images:,} test images: accuracy {100 * evaluation.accuracy:.2f} % "
        f"({100 * low:.1f} to {100 * high:.1f} %), calibration error {evaluation.calibration_error:.3f}, "
        f"median latency {evaluation.latency_p50 * 1e3:.2f} ms"
    )
    return evaluation


def _require_data_of(package: Package, dataset: Dataset, settings: Settings) -> None:
    trained_on = package.provenance["data_digest"]
    if dataset.digest == trained_on:
        return
    options = f"--data {package.provenance['data_source']}"
    fraction = package.provenance["parameters"].get("test_fraction", settings.test_fraction)
    if fraction != settings.test_fraction:
        options += f" --test-fraction {fraction:g}"
    raise DataError(
        f"the package was trained on data with digest {trained_on[:12]}, but --data {dataset.source} has "
        f"{dataset.digest[:12]}, of which it may know test images; give the data of its training ({options}), or train "
        "again"
    )


def _evaluate_and_record(settings: Settings, registry: Registry, package: Package, dataset: Dataset) -> Evaluation:
    evaluation, probabilities = measure(
        Model.load(package, available_cpus()),
        dataset,
        test_fraction=settings.test_fraction,
        abstain_error=settings.abstain_error,
    )
    labels = [dataset.classes[label] for label in dataset.test.labels]
    with registry.runs.resume(package.provenance["run_id"]) as run:
        run.log_metrics(evaluation.metrics)
        run.log_figure(plot_confusion_matrix(evaluation), "evaluation/confusion-matrix.png")
        run.log_figure(plot_reliability(evaluation), "evaluation/reliability.png")
        run.log_text(choose_examples(dataset, evaluation, probabilities).to_json(), artifact_paths.PICTURES)
        held_out = held_out_images(dataset.test.images, labels, probabilities)
        run.log_text(held_out_to_json(held_out), artifact_paths.HELD_OUT)
        # Last: an evaluation that is there has all its records.
        run.log_text(evaluation.to_json(), artifact_paths.EVALUATION)
    return evaluation


def _is_current(evaluation: Evaluation, package: Package, settings: Settings) -> bool:
    """Whether it is an evaluation of this package on its data, with these settings, of all that is measured."""
    measured = evaluation.corruptions == tuple(corruption.name for corruption in CORRUPTIONS)
    error = evaluation.abstention.error if evaluation.abstention else settings.abstain_error
    found = evaluation.package_digest, evaluation.data_digest, evaluation.test_fraction, error
    wanted = package.digest, package.provenance["data_digest"], settings.test_fraction, settings.abstain_error
    return measured and found == wanted
