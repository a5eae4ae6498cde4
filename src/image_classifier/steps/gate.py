"""The step `gate`: judge the candidate, against the champion if there is one, and write the report."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from image_classifier.errors import DataError, LostError, PackageError
from image_classifier.evaluation import Estimate, Evaluation, Pictures, decode_golden_images, latency_ratio, measure
from image_classifier.files import write_atomically
from image_classifier.gate import (
    CHAMPION,
    SIGNIFICANCE,
    Hashes,
    Opponent,
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
from image_classifier.registry import Registry, Version, artifact_paths, line_of_champions
from image_classifier.settings import Settings, pick
from image_classifier.steps.data import data
from image_classifier.steps.model_access import actor, evaluation_of, fetch_version, open_registry, version_to_judge
from image_classifier.steps.results import write_results
from image_classifier.steps.work_folder import WorkFolder
from image_classifier.text import Report, without_credentials

_MARKS = {
    RuleOutcome.PASS: "pass",
    RuleOutcome.FAIL: "FAIL",
    RuleOutcome.UNDECIDED: "HOLD",
    RuleOutcome.NOT_MEASURED: "   –",
}
CHAMPION_ROLE, BEST_ROLE = "the champion", "the best version so far"


@dataclass(frozen=True)
class _Reference:
    """The parts of another version that still exist, to compare a candidate with."""

    version: Version
    comparable: RuleResult | None  # why it cannot be compared; None if it can
    evaluation: Evaluation | None  # on the candidate's test images; None if it cannot be compared
    model: Model | None  # None if its files are lost
    training_images: Hashes | None  # None if they are unknown

    def opponent(self, role: str, latency_ratio: Estimate | None = None) -> Opponent | None:
        """For the comparison; None if it cannot be compared."""
        if self.evaluation is None:
            return None
        name = f"version {self.version.number}, {role}"
        return Opponent(name, self.evaluation, self.training_images, latency_ratio)


def gate(settings: Settings, report: Report) -> Verdict:
    """Judge the version that `model` names, else the one that `register` handed on, else the candidate.

    A refusal is a result, not an error.
    """
    registry = open_registry(settings, report)
    candidate = version_to_judge(settings, registry)
    champion = registry.versions.champion()
    evaluation = evaluation_of(registry, candidate)
    report_path = artifact_paths.REPORT
    if champion is not None and champion.number == candidate.number:
        result = RuleResult(CHAMPION, RuleOutcome.PASS, f"version {candidate.number} is the champion")
        verdict = Verdict((result,))
    else:
        package = fetch_version(settings, registry, candidate)
        opponent = best = None
        if champion is not None:
            opponent = _reference(settings, registry, champion, evaluation, report, role=CHAMPION_ROLE)
            earlier = _best_before(registry, champion, candidate, evaluation.data_digest)
            if earlier is not None and opponent.evaluation is not None:
                best = _reference(settings, registry, earlier, evaluation, report, role=BEST_ROLE)
                if best.evaluation is not None and best.evaluation.accuracy <= opponent.evaluation.accuracy:
                    best = None  # on these images the champion is the best
        verdict = _judge(evaluation, package, opponent, best, pick(settings, Thresholds))
        page = _report(registry, candidate, evaluation, package, opponent, verdict)
        write_atomically(WorkFolder.of(settings).report, page.encode())
        report_path = registry.history.record_verdict(
            candidate, verdict.to_record(), actor=actor(), against=champion.number if champion else None, report=page
        )
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
    if address := registry.runs.page_of(candidate.run_id, report_path) or (local.exists() and local):
        report(f"report: {address}")
    return verdict


def _reference(
    settings: Settings, registry: Registry, version: Version, candidate: Evaluation, report: Report, *, role: str
) -> _Reference:
    """A version, with its evaluation on the candidate's test images, which is measured if none is recorded."""
    try:
        content = registry.runs.read_artifact(version.run_id, artifact_paths.EVALUATION)
        trained_on = registry.runs.read_artifact(version.run_id, artifact_paths.TRAINING_IMAGES)
    except LostError:
        content = trained_on = None
    try:
        model = Model.load(fetch_version(settings, registry, version), available_cpus())
    except (LostError, PackageError) as error:
        report(f"warning: cannot run version {version.number}, {role}: {error}")
        model = None
    recorded = Evaluation.from_json(content) if content else None
    found = comparability(version.number, candidate, recorded, model.classes if model else None, role=role)
    evaluation = found.recorded
    if found.needs_evaluation and model is not None:
        report(f"evaluating version {version.number}, {role}, on the candidate's test images")
        evaluation = _evaluate_again(settings, model, candidate, report)
    return _Reference(version, found.result, evaluation, model, _hashes(trained_on) if trained_on else None)


def _hashes(lines: bytes) -> Hashes:
    return np.array([int(line, 16) for line in lines.split()], dtype=np.uint64)


def _evaluate_again(settings: Settings, model: Model, candidate: Evaluation, report: Report) -> Evaluation:
    dataset = data(settings, report, image_size=model.package.image_size, framing=model.package.framing)
    if dataset.digest != candidate.data_digest:
        raise DataError(
            f"the candidate was evaluated on data with digest {candidate.data_digest[:12]}, but --data "
            f"{without_credentials(settings.data)} "
            f"now has {dataset.digest[:12]}; give the candidate's data, or train again"
        )
    return measure(model, dataset, test_fraction=settings.test_fraction, abstain_error=settings.abstain_error)[0]


def _best_before(registry: Registry, champion: Version, candidate: Version, data_digest: str) -> Version | None:
    """The champion before with the highest recorded test accuracy; on this data, if one was evaluated on it.

    None if there is none, or if it is not better than the champion on the same data. A champion that was rolled back
    from is not one that should serve again.
    """
    line = set(line_of_champions(registry.history.events())) - {champion.number, candidate.number}
    before = [version for version in registry.versions.all() if version.number in line and _accuracy(version)]
    same_data = [version for version in before if version.tags.get("data_digest") == data_digest]
    best = max(same_data or before, key=lambda version: (_accuracy(version), version.number), default=None)
    if best is None:
        return None
    is_comparable = champion.tags.get("data_digest") == best.tags.get("data_digest")
    return None if is_comparable and _accuracy(best) <= _accuracy(champion) else best


def _accuracy(version: Version) -> float:
    """The recorded test accuracy; 0 if there is none."""
    return float(version.tags.get("test_accuracy", 0))


def _judge(
    evaluation: Evaluation,
    package: Package,
    champion: _Reference | None,
    best: _Reference | None,
    thresholds: Thresholds,
) -> Verdict:
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
    return judge(
        evaluation,
        champion.opponent(CHAMPION_ROLE, ratio),
        thresholds,
        best=best.opponent(BEST_ROLE) if best else None,
        comparable=champion.comparable,
    )


def _report(
    registry: Registry,
    candidate: Version,
    evaluation: Evaluation,
    package: Package,
    champion: _Reference | None,
    verdict: Verdict,
) -> str:
    """The report as HTML, with the pictures and the learning curve in the registry."""
    pictures = registry.runs.read_artifact(candidate.run_id, artifact_paths.PICTURES)
    other = None
    if champion is not None:
        name = f"version {champion.version.number}"
        other = ReportedVersion.of(name, champion.evaluation, champion.model.package if champion.model else None)
    return render_report(
        verdict,
        ReportedVersion.of(f"version {candidate.number}", evaluation, package),
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
