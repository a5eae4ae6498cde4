"""The step `gate`: judge the candidate, against the champion if there is one, and write the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from image_classifier.errors import DataError, LostError, PackageError
from image_classifier.evaluation import Evaluation, Pictures, decode_golden_images, latency_ratio, measure
from image_classifier.files import write_atomically
from image_classifier.gate import (
    CHAMPION,
    SIGNIFICANCE,
    ReportedVersion,
    ReportHeader,
    RuleOutcome,
    RuleResult,
    Thresholds,
    Verdict,
    comparability,
    judge,
    render_report,
)
from image_classifier.package import Model, Package
from image_classifier.process import available_cpus
from image_classifier.registry import Registry, Version, artifact_paths
from image_classifier.settings import Settings, pick
from image_classifier.steps.data import data
from image_classifier.steps.model_access import actor, evaluation_of, fetch_version, open_registry
from image_classifier.steps.results import write_results
from image_classifier.steps.work_folder import WorkFolder
from image_classifier.text import Report

_MARKS = {RuleOutcome.PASS: "pass", RuleOutcome.FAIL: "FAIL", RuleOutcome.UNDECIDED: "   ?"}


@dataclass(frozen=True)
class _Champion:
    """The parts of the champion that still exist, to compare a candidate with."""

    version: Version
    comparable: RuleResult
    evaluation: Evaluation | None  # on the candidate's test images; None if it cannot be compared
    model: Model | None  # None if its files are lost


def gate(settings: Settings, report: Report) -> Verdict:
    """Judge the candidate, or the version that `model` names. A refusal is a result, not an error."""
    registry = open_registry(settings, report)
    candidate = registry.versions.get(settings.model or "candidate")
    champion = registry.versions.champion()
    evaluation = evaluation_of(registry, candidate)
    page = ""
    if champion is not None and champion.number == candidate.number:
        result = RuleResult(CHAMPION, RuleOutcome.PASS, f"version {candidate.number} is the champion")
        verdict = Verdict((result,))
    else:
        package = fetch_version(settings, registry, candidate)
        opponent = _champion(settings, registry, champion, evaluation, report) if champion else None
        verdict = _judge(evaluation, package, opponent, pick(settings, Thresholds))
        page = _report(registry, candidate, evaluation, package, opponent, verdict)
        write_atomically(WorkFolder.of(settings).report, page.encode())
    registry.history.record_verdict(candidate, verdict.to_record(), actor=actor(), report=page)
    passed_on = candidate if verdict.accepted else champion
    results = {
        "verdict": verdict.decision,
        "reason": verdict.reason,
        "model-uri": registry.versions.address_of(passed_on) if passed_on else "",
        "model-version": str(passed_on.number) if passed_on else "",
        "data-digest": evaluation.data_digest,
    }
    write_results(settings.results, results)
    for result in verdict.results:
        report(f"  {_MARKS[result.outcome]}  {result.rule}: {result.sentence}")
    report(f"version {candidate.number} is {verdict.decision}")
    local = WorkFolder.of(settings).report
    if address := registry.runs.page_of(candidate.run_id, artifact_paths.REPORT) or (local.exists() and local):
        report(f"report: {address}")
    return verdict


def _champion(
    settings: Settings, registry: Registry, version: Version, candidate: Evaluation, report: Report
) -> _Champion:
    """The champion, with its evaluation on the candidate's test images, which is measured if none is recorded."""
    try:
        content = registry.runs.read_artifact(version.run_id, artifact_paths.EVALUATION)
    except LostError:
        content = None
    try:
        model = Model.load(fetch_version(settings, registry, version), available_cpus())
    except (LostError, PackageError) as error:
        report(f"warning: cannot run version {version.number}, the champion: {error}")
        model = None
    recorded = Evaluation.from_json(content) if content else None
    found = comparability(version.number, candidate, recorded, model.classes if model else None)
    evaluation = found.recorded
    if found.needs_evaluation and model is not None:
        evaluation = _evaluate_champion(settings, version, model, candidate, report)
    return _Champion(version, found.result, evaluation, model)


def _evaluate_champion(
    settings: Settings, version: Version, model: Model, candidate: Evaluation, report: Report
) -> Evaluation:
    report(f"evaluating version {version.number}, the champion, on the candidate's test images")
    dataset = data(settings, report, image_size=model.package.image_size)
    if dataset.digest != candidate.data_digest:
        raise DataError(
            f"the candidate was evaluated on data with digest {candidate.data_digest[:12]}, but --data {settings.data} "
            f"now has {dataset.digest[:12]}; give the candidate's data, or train again"
        )
    return measure(model, dataset, test_fraction=settings.test_fraction, abstain_error=settings.abstain_error)[0]


def _judge(evaluation: Evaluation, package: Package, champion: _Champion | None, thresholds: Thresholds) -> Verdict:
    if champion is None:
        return judge(evaluation, None, thresholds)
    ratio = None
    if champion.evaluation is not None and champion.model is not None:
        candidate = Model.load(package, available_cpus())
        ratio = latency_ratio(
            (candidate, decode_golden_images(package)),
            (champion.model, decode_golden_images(champion.model.package)),
            SIGNIFICANCE,
        )
    return judge(evaluation, champion.evaluation, thresholds, latency_ratio=ratio, comparable=champion.comparable)


def _report(
    registry: Registry,
    candidate: Version,
    evaluation: Evaluation,
    package: Package,
    champion: _Champion | None,
    verdict: Verdict,
) -> str:
    """The report as HTML, with the pictures and the learning curve in the registry."""
    pictures = registry.runs.read_artifact(candidate.run_id, artifact_paths.PICTURES)
    other = None
    if champion is not None:
        provenance: Mapping[str, Any] = champion.model.package.provenance if champion.model else {}
        other = ReportedVersion(f"version {champion.version.number}", champion.evaluation, provenance)
    return render_report(
        verdict,
        ReportedVersion(f"version {candidate.number}", evaluation, package.provenance),
        other,
        ReportHeader(
            model=candidate.name,
            time=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            actor=actor(),
            records=registry.runs.page_of(candidate.run_id),
        ),
        pictures=Pictures.from_json(pictures) if pictures else None,
        learning_curve=registry.runs.read_artifact(candidate.run_id, artifact_paths.LEARNING_CURVE),
    )
