"""The step `train`: train within the budget and write the model package."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import image_classifier
from image_classifier.backbones import SHIPPED, Backbone
from image_classifier.datasets import MAX_SMALL_IMAGE_SIZE, DataRequest, Dataset, decode_sample, prepare
from image_classifier.errors import PackageError, RegistryUnavailableError, TrainingError
from image_classifier.files import write_atomically
from image_classifier.images import CROP, PAD
from image_classifier.package import Package
from image_classifier.process import available_cpus, limit_thread_spinning
from image_classifier.registry import artifact_paths
from image_classifier.settings import AUTO, NO_BACKBONE, SETTINGS, Recipe, Settings, as_environment, pick
from image_classifier.steps.backbone import data_request, named_backbone
from image_classifier.steps.data import data
from image_classifier.steps.fingerprint import fingerprint, source_revision, training_code_digest, training_settings
from image_classifier.steps.model_access import open_registry
from image_classifier.steps.work_folder import WorkFolder
from image_classifier.text import Report

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from image_classifier.registry import Registry, Run, Version
    from image_classifier.training import BackboneChoice, Candidate, FramingChoice, Group

SOURCE = Path(image_classifier.__file__).parent  # the code that trains


@dataclass(frozen=True)
class TrainingIdentity:
    """What a training is of: the same identity gives the same model."""

    fingerprint: str
    code_digest: str
    source_revision: str

    @classmethod
    def of(cls, settings: Settings, dataset: Dataset) -> "TrainingIdentity":
        code = training_code_digest(SOURCE)
        if settings.mirror == "auto" and not dataset.mirror:  # which depends on the format, too
            settings = replace(settings, mirror="no")
        settings = _without_unused_backbone_settings(settings, dataset)
        return cls(fingerprint(code, dataset.digest, settings), code, source_revision(settings.source_revision, SOURCE))

    @property
    def tags(self) -> dict[str, str]:
        return asdict(self)


def _without_unused_backbone_settings(settings: Settings, dataset: Dataset) -> Settings:
    """Settings that are equal if the same backbone is chosen, or none: so that a new limit does not train again."""
    from image_classifier.training import has_backbone, is_framing_tried

    if not has_backbone(settings.backbone, dataset):
        settings = replace(settings, backbone=NO_BACKBONE)
    if settings.framing == AUTO and (settings.backbone == NO_BACKBONE or not is_framing_tried(dataset)):
        settings = replace(settings, framing=CROP)
    if settings.backbone == AUTO:
        return settings
    named = named_backbone(settings)
    if named is not None and settings.backbone not in SHIPPED:  # a file is what it contains, wherever it lies
        settings = replace(settings, backbone=named.digest)
    limits = ("max_latency", "max_model_size")
    return replace(settings, **{name: SETTINGS[name].default for name in limits})


def train(settings: Settings, report: Report) -> Package | None:
    """Train within the budget and write the package.

    The same training code, data and parameters are not trained twice: their registered version is fetched. With
    several processes the first one does everything except its share of the training; the others return None.
    """
    limit_thread_spinning()
    from image_classifier.training import join_group

    with _other_processes(settings) as environment, join_group({**os.environ, **environment}) as group:
        if group.is_first:
            return _train_first(settings, report, group)
        _train_other(settings, group)
        return None


def _other_processes(settings: Settings) -> AbstractContextManager[Mapping[str, str]]:
    """Start the other processes of the training; returns the environment variables that describe them."""
    if settings.training_processes == 1 or "WORLD_SIZE" in os.environ:
        return nullcontext({})
    from image_classifier.platform import is_in_cluster, training_pods
    from image_classifier.training import local_processes

    if is_in_cluster():
        return training_pods(os.environ, processes=settings.training_processes)
    command = [sys.executable, "-m", "image_classifier.cli", "train"]
    return local_processes(command, as_environment(settings, SETTINGS), processes=settings.training_processes)


@dataclass(frozen=True)
class _Choices:
    """What the first process chose for all of them."""

    model: "BackboneChoice"
    framing: "FramingChoice"
    from_scratch_too: bool
    """Whether a network from scratch is another candidate."""

    def candidates(
        self, settings: Settings, group: "Group", backbone: Backbone | None, prepared: Callable[[int, str], Dataset]
    ) -> list["Candidate"]:
        """The trainings, each with an equal part of the budget. `prepared` returns data by image size and framing."""
        from image_classifier.training import Candidate, Plan

        plan = pick(settings, Plan, threads=group.threads(available_cpus()), group=group, backbone=None)
        chosen = replace(plan, backbone=backbone, spent=self.framing.seconds)
        dataset = prepared(self.model.image_size, self.framing.framing)
        if not self.from_scratch_too:
            return [Candidate(dataset, chosen)]
        small = prepared(settings.image_size or MAX_SMALL_IMAGE_SIZE, self.framing.framing)
        return [
            Candidate(images, replace(each, budget=settings.budget / 2))
            for images, each in ((dataset, chosen), (small, plan))
        ]


def _train_other(settings: Settings, group: "Group") -> None:
    """Take part in the training of the first process, which says whether there is anything to train."""
    from image_classifier.training import BackboneChoice, FramingChoice, fit_best_worker

    # By now the first process has prepared the data, in a cache that may be shared.
    digest = group.broadcast("")
    dataset = prepare(data_request(settings))
    if dataset.digest != digest:
        raise TrainingError(
            f"process {group.rank} read other data than the first process: digest {dataset.digest[:12]}, not "
            f"{digest[:12]}; give all processes the same --data"
        )
    is_trained_already = group.broadcast(False)
    if not is_trained_already:
        choices = group.broadcast(_Choices(BackboneChoice(None, 0), FramingChoice(CROP), from_scratch_too=False))
        chosen = choices.model.backbone
        # A file of one's own may lie elsewhere in this process.
        backbone = named_backbone(settings) or chosen
        if chosen and backbone and chosen.digest != backbone.digest:
            raise TrainingError(
                f"process {group.rank} has another backbone than the first process; give all processes the same file"
            )

        def prepared(image_size: int, framing: str) -> Dataset:
            return prepare(pick(settings, DataRequest, image_size=image_size, framing=framing))

        fit_best_worker(choices.candidates(settings, group, backbone, prepared))


def _train_first(settings: Settings, report: Report, group: "Group") -> Package:
    from image_classifier.training import require_device

    require_device(settings.device)
    named = named_backbone(settings)
    if named is not None:
        named.feature_graph(settings.image_size or named.image_size)  # a wrong file is found before the data is read
    registry = open_registry(settings, report)
    dataset = data(settings, report)
    group.broadcast(dataset.digest)
    identity, work = TrainingIdentity.of(settings, dataset), WorkFolder.of(settings)
    version = registry.versions.find(identity.fingerprint)
    package = None if version else _unregistered_package(registry, work, identity)
    group.broadcast(version is not None or package is not None)
    if version is not None:
        return _registered_package(registry, version, work, report)
    if package is not None:
        report("already trained: the package in the work folder has the same code, data and parameters")
        return package
    choices = group.broadcast(_choose(settings, named, dataset, group, report))

    def prepared(image_size: int, framing: str) -> Dataset:
        if (image_size, framing) == (dataset.image_size, dataset.framing):
            return dataset
        return data(settings, report, image_size=image_size, framing=framing)

    candidates = choices.candidates(settings, group, choices.model.backbone, prepared)
    return _fit_and_export(settings, report, registry, identity, candidates)


def _choose(settings: Settings, named: Backbone | None, dataset: Dataset, group: "Group", report: Report) -> _Choices:
    from image_classifier.training import is_network_from_scratch_tried

    model = choose_model(settings, named, dataset, group, report)
    from_scratch_too = is_network_from_scratch_tried(settings.backbone, model, dataset, settings.budget)
    if from_scratch_too:
        report("the images are unlike photos: a network from scratch is trained, too, each for half the budget")
    else:
        _warn_of_unused_values(settings.recipe, on_backbone=model.backbone is not None, report=report)
    framing = choose_photo_framing(settings, model, dataset, group, report)
    return _Choices(model, framing, from_scratch_too)


def choose_model(
    settings: Settings, named: Backbone | None, dataset: Dataset, group: "Group", report: Report
) -> "BackboneChoice":
    """Choose the backbone and the image size by the settings and the data, and report the choice."""
    from image_classifier.training import ModelLimits, choose_backbone

    choice = choose_backbone(
        settings.backbone,
        named,
        settings.image_size,
        dataset,
        budget=settings.budget,
        processes=group.size,
        threads=group.threads(available_cpus()),
        limits=pick(settings, ModelLimits),
    )
    if choice.backbone is not None:
        source = f", pretrained on {choice.backbone.trained_on}," if choice.backbone.trained_on else ""
        report(f"backbone {choice.backbone.name}{source} at {choice.image_size}×{choice.image_size} pixels")
    return choice


def choose_photo_framing(
    settings: Settings, choice: "BackboneChoice", dataset: Dataset, group: "Group", report: Report
) -> "FramingChoice":
    """Choose between center crop and padding, and report why if both were tried."""
    from image_classifier.training import FramingChoice, choose_framing, framing_sample, is_framing_tried

    if settings.framing != AUTO:
        return FramingChoice(settings.framing)
    if choice.backbone is None or not is_framing_tried(dataset):
        return FramingChoice(CROP)
    rows = framing_sample(
        dataset, budget=settings.budget, validation_fraction=settings.validation_fraction, seed=settings.seed
    )
    request = pick(settings, DataRequest, image_size=choice.image_size)
    rows, (crops, pads) = decode_sample(request, dataset, rows, (CROP, PAD))
    if not len(rows):
        report(f"framing {CROP}: the budget or the training part is too small for a trial of {PAD}")
        return FramingChoice(CROP)
    chosen = choose_framing(
        choice.backbone,
        crops,
        pads,
        dataset.train.labels[rows],
        len(dataset.classes),
        budget=settings.budget,
        threads=group.threads(available_cpus()),
    )
    report(chosen.reason)
    return chosen


def _warn_of_unused_values(recipe: Recipe, *, on_backbone: bool, report: Report) -> None:
    if unused := recipe.unused(on_backbone=on_backbone):
        used_by = "a network that is trained from scratch" if on_backbone else "a model on a pretrained backbone"
        report(f"warning: of the recipe, {', '.join(unused)} has no effect, because it is for {used_by}")


def _registered_package(registry: "Registry", version: "Version", work: WorkFolder, report: Report) -> Package:
    registry.versions.download(version, work.package)
    report(
        f"already trained: version {version.number} of {version.name} has the same code, data and parameters; to train "
        "again, give --retrain any new text"
    )
    return Package.read(work.package)


def _unregistered_package(registry: "Registry", work: WorkFolder, identity: TrainingIdentity) -> Package | None:
    """The package in the work folder, if it is of this model and identity: a run was interrupted before `register`."""
    if work.checkpoint_of(identity.fingerprint).exists():  # MLflow lacks records of the training
        return None
    try:
        package = Package.read(work.package)
    except PackageError:
        return None
    if package.provenance.get("fingerprint") != identity.fingerprint:
        return None
    return package if registry.runs.model_of(package.provenance["run_id"]) == registry.name else None


def _fit_and_export(
    settings: Settings,
    report: Report,
    registry: "Registry",
    identity: TrainingIdentity,
    candidates: Sequence["Candidate"],
) -> Package:
    from image_classifier.training import CHECKPOINT_FILE, ReportPoint, export_package, fit_best, plot_learning_curve

    work, group, dataset = WorkFolder.of(settings), candidates[0].plan.group, candidates[0].dataset
    checkpoint = work.checkpoint_of(identity.fingerprint)
    parameters = training_settings(settings) | _parameters_of(candidates[0])
    # The training decides these.
    undecided = {"mirror"} if settings.mirror == "auto" else set()
    undecided |= set(_parameters_of(candidates[0])) if len(candidates) > 1 else set()
    parameters = {name: value for name, value in parameters.items() if name not in undecided}
    run_id = _interrupted_run(registry, checkpoint, identity.fingerprint, report)
    with (
        registry.runs.start(
            parameters={**parameters, "data": dataset.source, "data_digest": dataset.digest},
            tags=identity.tags,
            dataset=dataset,
            run_id=run_id,
        ) as run,
        registry.checkpoints.uploads(run.id, checkpoint / CHECKPOINT_FILE, report) as uploads,
    ):
        write_atomically(checkpoint / "run_id", run.id.encode())
        recorded_steps = run.steps_of("train_loss") if run_id else set()
        is_available = True

        def on_report(point: ReportPoint) -> None:
            nonlocal is_available
            uploads.offer()
            if is_available:
                try:
                    run.log_metrics(point.metrics, step=point.number)
                    recorded_steps.add(point.number)
                except RegistryUnavailableError as error:
                    is_available = False
                    report(f"{error}; the training continues and records its metrics at the end")

        best = fit_best(candidates, checkpoint=checkpoint, on_report=on_report)
        trained, dataset, backbone = best.trained, best.candidate.dataset, best.candidate.plan.backbone
        results = _parameters_of(best.candidate) | trained.parameters
        # Before the records, so that a registry that fails costs no training.
        package = export_package(
            work.package,
            trained.classifier,
            dataset,
            trained.validation,
            _provenance(identity, run, dataset, {**parameters, **results}, backbone),
            precision=settings.precision,
            threads=available_cpus(),
        )
        for point in trained.history:
            if point.number not in recorded_steps:
                run.log_metrics(point.metrics, step=point.number)
        accuracy, recorded = package.provenance["validation_accuracy"], package.provenance["parameters"]
        run.log_parameters(results | {name: recorded[name] for name in results.keys() & recorded.keys()})
        run.log_metrics({"training_seconds": trained.seconds, "final_validation_accuracy": accuracy})
        run.log_figure(plot_learning_curve(trained.history), artifact_paths.LEARNING_CURVE)
        run.log_text(_lines_of(dataset.train.hashes), artifact_paths.TRAINING_IMAGES)
        uploads.delete()
    shutil.rmtree(checkpoint)
    if best.reason:
        report(f"{best.candidate.name} was chosen on the validation images: {best.reason}")
    together = f" in {group.size} processes" if group.size > 1 else ""
    report(
        f"trained for {trained.seconds:.1f} s{together}: validation accuracy {100 * accuracy:.2f} %; "
        f"the package is in {work.package}"
    )
    return package


def _parameters_of(candidate: "Candidate") -> dict[str, Any]:
    dataset = candidate.dataset
    return {"image_size": dataset.image_size, "framing": dataset.framing, "backbone": candidate.name}


def _provenance(
    identity: TrainingIdentity,
    run: "Run",
    dataset: Dataset,
    parameters: Mapping[str, object],
    backbone: Backbone | None,
) -> dict[str, Any]:
    # As in packages of versions that only crop.
    recorded = {name: value for name, value in parameters.items() if (name, value) != ("framing", CROP)}
    return {
        **identity.tags,
        "run_id": run.id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data_source": dataset.source,
        "data_digest": dataset.digest,
        "parameters": json.loads(json.dumps(recorded, default=str)),
        **({"backbone": backbone.provenance} if backbone else {}),
    }


def _lines_of(hashes: "npt.NDArray[np.uint64]") -> str:
    return "".join(f"{value:016x}\n" for value in hashes.tolist())


def _interrupted_run(registry: "Registry", checkpoint: Path, fingerprint: str, report: Report) -> str | None:
    """The run that an interrupted training with the same fingerprint had started, here or on another machine.

    The checkpoint of another machine is downloaded into the folder `checkpoint`.
    """
    from image_classifier.training import CHECKPOINT_FILE

    file = checkpoint / "run_id"
    if file.exists():
        return file.read_text()
    fetched = registry.checkpoints.fetch(fingerprint)
    if fetched is None:
        return None
    run_id, content = fetched
    write_atomically(checkpoint / CHECKPOINT_FILE, content)
    report(f"resuming the interrupted training of run {run_id} from its checkpoint in MLflow")
    return run_id
