"""The report of a verdict: one HTML page without external resources, which a reviewer can read in two minutes."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from jinja2 import Environment, PackageLoader, StrictUndefined

from image_classifier.evaluation import (
    Evaluation,
    Pictures,
    plot_confusion_matrix,
    plot_coverage,
    plot_labels,
    plot_reliability,
    plot_robustness,
)
from image_classifier.gate.formatting import between, error, milliseconds, percent, points, ratio
from image_classifier.gate.rules import AT_LEAST, ERROR, POINTS, SECONDS, SHARE, TIMES, RuleOutcome, RuleResult
from image_classifier.gate.verdict import Verdict
from image_classifier.package import Package

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CONFUSIONS = 10
_MOST_CLASSES = 20  # shown; the others are collapsed
_Writer = Callable[[float], str]
_WRITERS: dict[str, _Writer] = {SHARE: percent, POINTS: points, ERROR: error, SECONDS: milliseconds, TIMES: ratio}
_MARKS = {
    RuleOutcome.PASS: "✓ pass",
    RuleOutcome.FAIL: "✗ fail",
    RuleOutcome.UNDECIDED: "? held",
    RuleOutcome.NOT_MEASURED: "– not measured",
}
_CLASSES = {
    RuleOutcome.PASS: "pass",
    RuleOutcome.FAIL: "fail",
    RuleOutcome.UNDECIDED: "undecided",
    RuleOutcome.NOT_MEASURED: "quiet",
}


@dataclass(frozen=True)
class ReportedVersion:
    """A version in the report: the candidate, or the champion next to it."""

    name: str
    evaluation: Evaluation | None
    """None if it cannot be compared."""
    provenance: Mapping[str, Any]
    """From its package, with the resolved parameters; {} if its files are missing."""

    @classmethod
    def of(cls, name: str, evaluation: Evaluation | None, package: Package | None) -> Self:
        """A version with its package, None if that is missing. Parameters that are automatic show what was chosen."""
        if package is None:
            return cls(name, evaluation, {})
        parameters = {**package.provenance.get("parameters", {}), "image_size": package.image_size}
        if precision := package.provenance.get("precision"):
            parameters["precision"] = precision["chosen"]
        return cls(name, evaluation, {**package.provenance, "parameters": parameters})


@dataclass(frozen=True)
class ReportHeader:
    """Who judged which model and when, and where the records are."""

    model: str
    time: str
    actor: str
    records: str
    """Address of the run's page; "" for a local registry."""


def render_report(
    verdict: Verdict,
    candidate: ReportedVersion,
    champion: ReportedVersion | None,
    header: ReportHeader,
    *,
    pictures: Pictures | None,
    learning_curve: bytes | None,
) -> str:
    """The page as HTML; it omits `pictures`, and `learning_curve`, a PNG, if they are None.

    Raises ValueError if the candidate has no evaluation.
    """
    if candidate.evaluation is None:
        raise ValueError("the candidate has no evaluation")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.loader = PackageLoader("image_classifier.gate")
    environment.filters |= {"percent": percent, "between": between}
    environment.filters |= {"loss": partial(_with_interval, points), "speed": partial(_with_interval, ratio)}
    evaluation = candidate.evaluation
    compared = champion.evaluation if champion else None
    by_class = sorted(evaluation.by_class, key=lambda metrics: 2.0 if metrics.recall is None else metrics.recall)
    return environment.get_template("report.html").render(
        verdict=verdict,
        outcome=RuleOutcome,
        marks=_MARKS,
        classes=_CLASSES,
        deciding=[result.rule for result in verdict.deciding],
        numbers_of=_numbers_of,
        candidate=candidate,
        champion=champion,
        evaluation=evaluation,
        compared=compared,
        header=header,
        metrics=_metrics(evaluation, compared),
        changes=_changes(candidate.provenance, champion.provenance if champion else {}),
        backbone=candidate.provenance.get("backbone"),
        precision=candidate.provenance.get("precision"),
        plots=_plots(evaluation, compared),
        learning_curve=_data_uri(learning_curve, "image/png") if learning_curve else None,
        pictures=pictures,
        by_class=by_class[:_MOST_CLASSES],
        folded=by_class[_MOST_CLASSES:],
        champion_recall=compared.recall if compared else None,
        relabeled=[
            (label, name)
            for label, name in zip(plot_labels(evaluation.classes), evaluation.classes, strict=False)
            if label != name
        ],
        confused=evaluation.top_confusions(_MOST_CONFUSIONS),
        provenance=_provenance(candidate),
    )


def _with_interval(write: _Writer, values: Sequence[float]) -> str:
    """A value with its interval, from [value, low, high]."""
    value, low, high = values
    return f"{write(value)} ({between((low, high), write)})"


def _numbers_of(result: RuleResult) -> tuple[str, str, str]:
    """The measured value, its interval and the threshold, as text."""
    write = _WRITERS[result.unit]
    measured = "" if result.measured is None else write(result.measured)
    interval = "" if result.low is None or result.high is None else between((result.low, result.high), write)
    sign = "≥" if result.bound == AT_LEAST else "≤"
    threshold = "" if result.threshold is None else f"{sign} {write(result.threshold)}"
    return measured, interval, threshold


def _metrics(evaluation: Evaluation, compared: Evaluation | None) -> list[tuple[str, str, str]]:
    """The main metrics: name, candidate's and champion's value."""

    def row(name: str, metric: Callable[[Evaluation], str]) -> tuple[str, str, str]:
        return name, metric(evaluation), metric(compared) if compared else ""

    return [
        row("Accuracy", lambda e: f"{percent(e.accuracy)} ({between(e.accuracy_interval)})"),
        row("Accuracy without duplicates", lambda e: percent(e.accuracy_without_duplicates)),
        row("Lowest class recall", _lowest_recall),
        row("Lowest accuracy under corruption", _lowest_robustness),
        row("Calibration error", lambda e: error(e.calibration_error)),
        row("Log loss", lambda e: error(e.log_loss)),
        row("Coverage at the threshold", _coverage),
        row("Median latency", lambda e: milliseconds(e.latency_p50)),
        row("p95 latency", lambda e: milliseconds(e.latency_p95)),
        row("Model size", lambda e: f"{e.model_bytes / 2**20:.2f} MiB" if e.model_bytes else "–"),
    ]


def _lowest_recall(evaluation: Evaluation) -> str:
    name, recall = min(evaluation.recall.items(), key=lambda item: item[1])
    return f"{percent(recall)} ({name})"


def _lowest_robustness(evaluation: Evaluation) -> str:
    if not evaluation.corruptions:
        return "–"
    accuracies = {name: float(evaluation.correct_under(name).mean()) for name in evaluation.corruptions}
    name, accuracy = min(accuracies.items(), key=lambda item: item[1])
    return f"{percent(accuracy)} ({name})"


def _coverage(evaluation: Evaluation) -> str:
    if evaluation.coverage is None:
        return "–"
    answered, wrong = evaluation.coverage
    return f"{percent(answered / evaluation.images)}, error rate {percent(wrong / max(answered, 1))}"


def _changes(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Parameters and sources that differ: name, candidate's and champion's value."""

    def values(provenance: Mapping[str, Any]) -> dict[str, str]:
        sources = {
            "source revision": provenance.get("source_revision"),
            "training code": str(provenance.get("code_digest"))[:12],
            "data digest": str(provenance.get("data_digest"))[:12],
        }
        parameters = {**sources, **provenance.get("parameters", {})}
        return {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in parameters.items()}

    new, old = values(candidate), values(champion)
    return [(name, new.get(name, "–"), old.get(name, "–")) for name in {**new, **old} if new.get(name) != old.get(name)]


def _provenance(version: ReportedVersion) -> list[tuple[str, str]]:
    evaluation, provenance = version.evaluation, version.provenance
    parameters = provenance.get("parameters", {})
    rows = {
        "Package": evaluation.package_digest if evaluation else None,
        "Run": provenance.get("run_id"),
        "Trained": provenance.get("created"),
        "Data": provenance.get("data_source"),
        "Data digest": provenance.get("data_digest"),
        "Source revision": provenance.get("source_revision"),
        "Training code": provenance.get("code_digest"),
        "Seed": parameters.get("seed"),
        "Machine of the evaluation": evaluation.machine if evaluation else None,
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _plots(evaluation: Evaluation, compared: Evaluation | None) -> dict[str, str]:
    figures = {
        "confusion": plot_confusion_matrix(evaluation),
        "reliability": plot_reliability(evaluation, compared),
        "coverage": plot_coverage(evaluation, compared),
    }
    if evaluation.corruptions:
        figures["robustness"] = plot_robustness(evaluation, compared)
    return {name: _svg(figure) for name, figure in figures.items()}


def _svg(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _data_uri(buffer.getvalue(), "image/svg+xml")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
