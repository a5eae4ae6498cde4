"""The steps of the chain, each a function of the settings; the command line and the Tekton steps call these.

Steps leave what the next one needs in the work folder (`home/work`), and what must last in the registry.
"""

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from image_classifier.errors import (
    PackageError,
    RegistryError,
    SourceError,
    TrainingError,
)
from image_classifier.files import write_atomically
from image_classifier.package import Model, Package
from image_classifier.process import available_cpus, share_cpus
from image_classifier.registry import artifact_paths as artifacts
from image_classifier.settings import SETTINGS, Recipe, Settings, as_environment
from image_classifier.steps import fingerprint as provenance
from image_classifier.steps.registry_access import Report, actor, fetch_model, open_registry
from image_classifier.steps.results import clipped, leave_results

if TYPE_CHECKING:  # these bring PyTorch, MLflow or SciPy, which most commands never need
    from image_classifier.datasets import Dataset
    from image_classifier.evaluation import Evaluation
    from image_classifier.gate import Verdict
    from image_classifier.registry import Version
    from image_classifier.training import Group


_SOURCE_WAIT = 60.0
"""Seconds; what serves the sources of a cluster is back by then when it was started anew, twice even."""


@dataclass(frozen=True)
class WorkFolder:
    """What one step leaves for the next."""

    folder: Path

    @property
    def package(self) -> Path:
        return self.folder / "package"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


def work_folder(settings: Settings) -> WorkFolder:
    return WorkFolder(settings.home / "work")


def source(settings: Settings, report: Report) -> None:
    """Fetch and unpack the source that the settings name."""
    from image_classifier.platform import fetch_source

    if not settings.source_url:
        report("no source was named; the installed code is used")
        return
    fetch_source(
        settings.source_url,
        settings.source,
        sub_path=settings.sub_path,
        timeout=settings.fetch_timeout,
        wait=_SOURCE_WAIT,
        report=report,
    )
    report(f"unpacked {settings.source_url} into {settings.source}")


def test(settings: Settings, report: Report) -> None:
    """Run the tests of the source; raises SourceError where one fails."""
    from image_classifier.platform import run_tests

    source(settings, report)
    tested = run_tests(settings.source)
    if tested.failed:
        raise SourceError(tested.in_words)
    report(tested.in_words)
    leave_results(settings, {"verdict": "passed", "reason": tested.in_words})


def data(settings: Settings, report: Report) -> "Dataset":
    """Prepare the data set: fetch, decode, cache, check."""
    from image_classifier.datasets import prepare

    dataset = prepare(settings)
    for warning in dataset.warnings:
        report(f"warning: {warning}")
    report(
        f"data {dataset.source}: {len(dataset.train.labels):,} images to train and "
        f"{len(dataset.test.labels):,} to test, {len(dataset.classes)} classes, "
        f"{dataset.image_size}×{dataset.image_size} pixels, "
        f"digest {dataset.digest[:12]}"
    )
    return dataset


def train(settings: Settings, report: Report) -> Package | None:
    """Train within the budget and write the package.

    The same training code, data and parameters are not trained twice: their registered version is fetched. Of several
    processes the first does all but the training itself, and the others get None.
    """
    share_cpus()
    from image_classifier.training import joined

    with _helped(settings) as environment, joined({**os.environ, **environment}) as group:
        if group.is_first:
            return _train(settings, report, group)
        _assist(settings, group)
        return None


def _helped(settings: Settings) -> AbstractContextManager[Mapping[str, str]]:
    """Starts the other processes that the settings ask for; gives what tells this one of them."""
    if settings.training_processes == 1 or "WORLD_SIZE" in os.environ:
        return nullcontext({})
    from image_classifier.platform import helping_pods, is_in_cluster
    from image_classifier.training import helping_processes

    if is_in_cluster():
        return helping_pods(os.environ, processes=settings.training_processes)
    return helping_processes(as_environment(settings, SETTINGS), processes=settings.training_processes)


def _assist(settings: Settings, group: "Group") -> None:
    from image_classifier.datasets import prepare
    from image_classifier.training import Plan, assist

    # The first has it ready by then, in the cache where that is shared.
    digest = group.of_first("")
    dataset = prepare(settings)
    if dataset.digest != digest:
        raise TrainingError(
            f"process {group.rank} read other data than the first: digest {dataset.digest[:12]}, not {digest[:12]}; "
            "give all of them the same --data"
        )
    if group.of_first(False):
        return
    assist(dataset, Plan.of(settings, group))


def _train(settings: Settings, report: Report, group: "Group") -> Package:
    from image_classifier.evaluation import learning_curve
    from image_classifier.training import Epoch, Plan, device_named, export_package, fit

    device_named(settings.device)
    registry = open_registry(settings, report)
    dataset = data(settings, report)
    group.of_first(dataset.digest)
    source = Path(__file__).parent.parent
    code_digest = provenance.training_code_digest(source)
    fingerprint = provenance.fingerprint(code_digest, dataset.digest, settings)
    work = work_folder(settings)

    known = registry.find(fingerprint)
    package = None if known else _package_trained_here(work, fingerprint)
    group.of_first(bool(known or package))
    if known is not None:
        registry.download(known, work.package)
        report(
            f"trained before: this code, data and parameters gave version {known.number} of {settings.name}; "
            "give --retrain any new text to train again"
        )
        return Package.read(work.package)
    if package is not None:
        report("trained before: the package in the work folder is of this code, data and parameters")
        return package

    checkpoint = work.checkpoint / fingerprint[:16]
    revision = provenance.source_revision(settings.source_revision, source)
    parameters = {name: getattr(settings, name) for name in provenance.TRAINING_SETTINGS}
    tags = {"fingerprint": fingerprint, "code_digest": code_digest, "source_revision": revision}
    with registry.start_run(
        parameters={**parameters, "data": settings.data, "data_digest": dataset.digest},
        tags=tags,
        dataset=dataset,
        run_id=_started_run(checkpoint),
    ) as run:
        write_atomically(checkpoint / "run_id", run.id.encode())

        def on_epoch(epoch: Epoch) -> None:
            run.log_epoch(epoch.figures, step=epoch.number)

        trained = fit(dataset, Plan.of(settings, group), checkpoint=checkpoint, on_epoch=on_epoch)
        best = trained.history[-1]
        run.log_parameters(trained.parameters)
        run.log_metrics(
            {"training_seconds": trained.seconds, "final_validation_accuracy": best.validation_accuracy}
        )
        run.log_figure(learning_curve(trained.history), artifacts.LEARNING_CURVE)
        package = export_package(
            work.package,
            trained.classifier,
            dataset,
            trained.validation,
            {
                **tags,
                "run_id": run.id,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "data_source": dataset.source,
                "data_digest": dataset.digest,
                "parameters": json.loads(json.dumps({**parameters, **trained.parameters}, default=str)),
            },
            precision=settings.precision,
            threads=available_cpus(),
        )
    together = f" in {group.size} processes" if group.size > 1 else ""
    report(
        f"trained for {trained.seconds:.1f} s{together}: {package.provenance['validation_accuracy']:.2%} of the "
        f"validation images are right; the package is in {work.package}"
    )
    return package


def tune(settings: Settings, report: Report) -> Recipe:
    """Search for a better recipe within `tune_budget`; gives the recommended one. A killed search goes on."""
    share_cpus()
    from image_classifier.search import check_time, search

    check_time(settings)
    registry = open_registry(settings, report)
    dataset = data(settings, report)
    source = Path(__file__).parent.parent
    code_digest = provenance.training_code_digest(source)
    # The trainings differ by their recipe alone, whatever recipe the environment names.
    fingerprint = provenance.fingerprint(code_digest, dataset.digest, replace(settings, recipe=Recipe()))
    tags = {
        "code_digest": code_digest,
        "source_revision": provenance.source_revision(settings.source_revision, source),
    }
    return search(settings, dataset, registry, fingerprint=fingerprint, tags=tags, report=report)


def evaluate(settings: Settings, report: Report) -> "Evaluation":
    """Evaluate the trained package on the test part; a package's test part is read once."""
    from image_classifier.evaluation import evaluate as measure
    from image_classifier.evaluation import plots as figures
    from image_classifier.evaluation import take_pictures
    from image_classifier.platform import held_out_images, images_to_json

    work = work_folder(settings)
    package = _trained_package(work)
    registry = open_registry(settings, report)
    run_id = package.provenance["run_id"]
    evaluation = _read_evaluation(registry.read_artifact(run_id, artifacts.EVALUATION))
    if evaluation is None or not _is_current(evaluation, package, settings):
        dataset = data(replace(settings, image_size=package.image_size), report)
        model = Model.load(package, available_cpus())
        evaluation, probabilities = measure(
            model, dataset, test_fraction=settings.test_fraction, abstain_error=settings.abstain_error
        )
        with registry.resume_run(run_id) as run:
            run.log_metrics(evaluation.metrics)
            run.log_figure(figures.confusion_matrix(evaluation), "evaluation/confusion-matrix.png")
            run.log_figure(figures.reliability(evaluation), "evaluation/reliability.png")
            run.log_text(take_pictures(dataset, evaluation, probabilities).to_json(), artifacts.PICTURES)
            labels = [dataset.classes[label] for label in dataset.test.labels]
            held_out = held_out_images(dataset.test.images, labels, probabilities)
            run.log_text(images_to_json(held_out), artifacts.HELD_OUT)
            run.log_text(evaluation.to_json(), artifacts.EVALUATION)
    write_atomically(work.evaluation, evaluation.to_json().encode())
    low, high = evaluation.accuracy_interval
    report(
        f"evaluated on {evaluation.images:,} test images: accuracy {evaluation.accuracy:.2%} "
        f"({low:.1%} to {high:.1%}), calibration error {evaluation.calibration_error:.3f}, "
        f"{evaluation.latency_p50 * 1e3:.2f} ms an image"
    )
    return evaluation


def register(settings: Settings, report: Report) -> "Version":
    """Register the evaluated package; a repeat finds the version that is there."""
    from image_classifier.attestation import Attestations

    work = work_folder(settings)
    package = _trained_package(work)
    evaluation = _read_evaluation(work.evaluation.read_bytes() if work.evaluation.exists() else None)
    if evaluation is None or evaluation.package_digest != package.digest:
        raise PackageError(
            f"the package in {work.package} has not been evaluated; run `image-classifier evaluate` first"
        )
    registry = open_registry(settings, report)
    attest = Attestations.of(settings, actor())
    version = registry.register(
        package.provenance["run_id"],
        work.package,
        accompany=lambda folder: attest.write(folder, package, evaluation),
        tags={
            **attest.tags,
            "fingerprint": package.provenance["fingerprint"],
            "package_digest": package.digest,
            "data_digest": package.provenance["data_digest"],
            "source_revision": package.provenance["source_revision"],
            "test_accuracy": f"{evaluation.accuracy:.4f}",
        },
    )
    report(f"registered as {version.uri}")
    if not attest.tags.items() <= version.tags.items():
        report(
            f"warning: version {version.number} was registered before, and not signed with this key; a new text for "
            "--retrain makes one that is"
        )
    return version


def gate(settings: Settings, report: Report) -> "Verdict":
    """Judge the candidate (or `model`) by the floors and against the champion. A refusal is no error."""
    from image_classifier.gate import (
        CHAMPION,
        Means,
        RuleOutcome,
        RuleResult,
        Verdict,
        evaluation_of,
        judge_version,
        report_of,
    )

    registry = open_registry(settings, report)
    candidate = registry.get(settings.model or "candidate")
    champion = registry.champion()
    if champion is not None and champion.number == candidate.number:
        verdict = Verdict(
            (RuleResult(CHAMPION, RuleOutcome.PASS, f"version {candidate.number} is the champion"),)
        )
        data_digest = evaluation_of(registry, candidate).data_digest
    else:
        means = Means(
            registry,
            fetch=lambda version: fetch_model(replace(settings, model=version.uri), report),
            prepare=lambda size: data(replace(settings, image_size=size), report),
            report=report,
        )
        judgement = judge_version(candidate, champion, settings, means)
        verdict, data_digest = judgement.verdict, judgement.evaluation.data_digest
        page = report_of(judgement, registry, actor=actor())
        write_atomically(work_folder(settings).report, page.encode())
        with registry.resume_run(candidate.run_id) as run:
            run.log_text(page, artifacts.REPORT)
            run.log_text(json.dumps(verdict.to_dict(), indent=1), artifacts.VERDICT)
        if not verdict.accepted:
            registry.refuse(candidate, actor=actor(), reason=verdict.reason)
    registry.set_tags(candidate, {"verdict": verdict.word})
    passed_on = candidate if verdict.accepted else champion
    leave_results(
        settings,
        {
            "verdict": verdict.word,
            "reason": clipped(verdict.reason),
            "model-uri": registry.address_of(passed_on) if passed_on else "",
            "model-version": str(passed_on.number) if passed_on else "",
            "data-digest": data_digest,
        },
    )
    marks = {RuleOutcome.PASS: "pass", RuleOutcome.FAIL: "FAIL", RuleOutcome.UNDECIDED: "   ?"}
    for finding in verdict.findings:
        report(f"  {marks[finding.outcome]}  {finding.rule}: {finding.in_words}")
    report(f"version {candidate.number} is {verdict.word}")
    if page_address := registry.page_of(candidate.run_id, artifacts.REPORT):
        report(f"the report is at {page_address}")
    elif work_folder(settings).report.exists():
        report(f"the report is {work_folder(settings).report}")
    return verdict


def promote(settings: Settings, report: Report) -> "Version | None":
    """Make the candidate (or `model`) the champion if the gate accepted it; gives the champion."""
    registry = open_registry(settings, report)
    candidate = registry.get(settings.model or "candidate")
    champion = registry.champion()
    verdict = candidate.tags.get("verdict")
    if verdict is None:
        raise RegistryError(f"version {candidate.number} was not judged; run `image-classifier gate` first")
    if verdict != "accepted":
        serving = f"version {champion.number} stays" if champion else "there is still no champion"
        report(f"version {candidate.number} was refused and is not promoted; {serving}")
        return champion
    content = json.loads(registry.read_artifact(candidate.run_id, artifacts.VERDICT) or "{}")
    registry.promote(
        candidate,
        actor=actor(),
        reason=content.get("reason", "accepted by the gate"),
        image=settings.image,
    )
    report(f"version {candidate.number} is the champion")
    return registry.get("champion")


def accept(settings: Settings, report: Report) -> None:
    """Try the candidate (or `model`) at its address, and make it the champion if it answers as evaluated.

    Only what the gate accepted is tried; raises RegistryError for a version that it did not. A pair of image and
    version that was rolled back from is refused, which is no error.
    """
    from image_classifier.platform import Expected, images_from_json, try_candidate
    from image_classifier.registry import withdrawal

    registry = open_registry(settings, report)
    version = registry.get(settings.model or "candidate")
    if version.tags.get("verdict") != "accepted":
        verdict = version.tags.get("verdict", "not judged")
        raise RegistryError(f"version {version.number} is {verdict} by the gate and cannot be served")
    pair = {
        "image": settings.image,
        "model-uri": registry.address_of(version),
        "model-version": str(version.number),
    }
    if rolled_back := withdrawal(registry.history(), version.number, settings.image):
        reason = (
            f"version {version.number} was taken out of service by {rolled_back.actor} at "
            f"{rolled_back.time:%Y-%m-%d %H:%M:%S} UTC: {rolled_back.reason}; `image-classifier rollback --release` "
            "lets it be tried again"
        )
        report(reason)
        leave_results(settings, {"verdict": "refused", "reason": clipped(reason), **pair})
        return
    chosen = replace(settings, model=version.uri)
    package = fetch_model(chosen, report)
    held_out = registry.read_artifact(version.run_id, artifacts.HELD_OUT)
    if held_out is not None:
        package = replace(package, golden=package.golden + images_from_json(held_out))
    trial = try_candidate(
        settings.url,
        package,
        Expected(str(version.number), settings.image),
        max_latency=settings.max_latency,
        timeout=settings.accept_timeout,
        report=report,
    )
    reason = (
        f"{trial.images} held-out images answered as recorded, to {trial.largest_difference:.1g}; "
        f"{trial.latency_p95 * 1e3:.0f} ms an image"
    )
    report(f"version {version.number}: {reason}")
    promote(chosen, report)
    leave_results(
        settings,
        {
            "verdict": "accepted",
            "reason": reason,
            **pair,
        },
    )


def watch(settings: Settings, report: Report) -> None:
    """Watch the roll-out of `model` in `image`, and turn it back where it does worse than what served before.

    It is turned back as `rollback` would; that it was is a result, and no error.
    """
    from image_classifier.platform import Cluster, require_workload, withdraw
    from image_classifier.platform import watch as watch_revision

    registry = open_registry(settings, report)
    version = registry.get(settings.model or "champion")
    cluster = Cluster.connect()
    seen = watch_revision(
        registry,
        cluster,
        settings.service,
        (version.number, settings.image),
        seconds=settings.watch_duration,
        report=report,
    )
    report(f"version {version.number}: {seen.reason}")
    reason = seen.reason
    if seen.worse:
        workload = require_workload(cluster, settings.service)
        change = withdraw(registry, cluster, workload, actor=actor(), reason=seen.reason)
        reason = f"turned back to version {change.after.number}: {seen.reason}"
        report(reason)
    elif seen.before is not None:
        registry.watched(
            version, actor=actor(), reason=reason, image=settings.image, from_version=seen.before
        )
    verdict = "refused" if seen.worse else "accepted"
    leave_results(settings, {"verdict": verdict, "reason": clipped(reason)})


def _trained_package(work: WorkFolder) -> Package:
    if not work.package.exists():
        raise PackageError(f"there is no package in {work.package}; run `image-classifier train` first")
    return Package.read(work.package)


def _package_trained_here(work: WorkFolder, fingerprint: str) -> Package | None:
    """The work folder's package, when a run that was cut off before `register` left the wanted one."""
    try:
        package = Package.read(work.package)
    except PackageError:
        return None
    return package if package.provenance.get("fingerprint") == fingerprint else None


def _started_run(checkpoint: Path) -> str | None:
    """The run that a killed training of the same fingerprint had started."""
    file = checkpoint / "run_id"
    return file.read_text() if file.exists() else None


def _read_evaluation(content: bytes | None) -> "Evaluation | None":
    from image_classifier.evaluation import Evaluation

    return None if content is None else Evaluation.from_json(content)


def _is_current(evaluation: "Evaluation", package: Package, settings: Settings) -> bool:
    """Whether all was measured that this program measures, of this package and with these settings."""
    from image_classifier.evaluation import CORRUPTIONS

    measured = evaluation.corruptions == tuple(corruption.name for corruption in CORRUPTIONS)
    aimed_at = evaluation.abstention.error if evaluation.abstention else settings.abstain_error
    return evaluation.package_digest == package.digest and measured and aimed_at == settings.abstain_error
