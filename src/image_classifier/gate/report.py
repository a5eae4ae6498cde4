"""The report of a verdict: one page without external parts, for a reviewer who has two minutes."""

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from image_classifier.evaluation import Evaluation, Pictures
from image_classifier.evaluation import plots as figures
from image_classifier.gate.rule_result import (
    AT_LEAST,
    ERROR,
    POINTS,
    SECONDS,
    SHARE,
    TIMES,
    RuleOutcome,
    RuleResult,
)
from image_classifier.gate.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CONFUSED = 10
_MOST_CLASSES = 20
"""So many classes are shown; of more, the rest is folded away."""
_MARKS = {RuleOutcome.PASS: "✓", RuleOutcome.FAIL: "✗", RuleOutcome.UNDECIDED: "?"}


@dataclass(frozen=True)
class Side:
    """A version as the report tells of it."""

    name: str
    evaluation: Evaluation | None
    """None where it cannot be compared."""
    provenance: Mapping[str, Any]
    """What the package says of its making; {} where its files are gone."""


@dataclass(frozen=True)
class Circumstances:
    """Who judged and when, and where the records are."""

    model: str
    time: str
    actor: str
    records: str
    """Address of the run's page; "" where the records are files."""


def render_report(
    verdict: Verdict,
    candidate: Side,
    champion: Side | None,
    circumstances: Circumstances,
    *,
    pictures: Pictures | None,
    learning_curve: bytes | None,
) -> str:
    """The page as HTML. `learning_curve` is a PNG; what is None is left out.

    Raises ValueError where the candidate has no evaluation.
    """
    if candidate.evaluation is None:
        raise ValueError("a candidate without an evaluation was not judged")
    environment = Environment(
        loader=PackageLoader("image_classifier.gate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "between": _between}
    evaluation = candidate.evaluation
    compared = champion.evaluation if champion else None
    by_class = sorted(
        evaluation.by_class, key=lambda figures: 2.0 if figures.recall is None else figures.recall
    )
    return environment.get_template("report.html").render(
        verdict=verdict,
        outcome=RuleOutcome,
        marks=_MARKS,
        figures_of=_figures_of,
        candidate=candidate,
        champion=champion,
        evaluation=evaluation,
        compared=compared,
        circumstances=circumstances,
        metrics=_metrics(evaluation, compared),
        changes=_changes(candidate.provenance, champion.provenance if champion else {}),
        precision=candidate.provenance.get("precision"),
        plots=_plots(evaluation, compared),
        learning_curve=_data_uri(learning_curve, "image/png") if learning_curve else None,
        pictures=pictures,
        by_class=by_class[:_MOST_CLASSES],
        folded=by_class[_MOST_CLASSES:],
        champion_recall=compared.recall if compared else None,
        confused=evaluation.confused(_MOST_CONFUSED),
        provenance=_provenance(candidate),
    )


def _figures_of(finding: RuleResult) -> tuple[str, str, str]:
    """The measured figure, its interval and the threshold, as they are written."""
    write = _WRITERS[finding.unit]
    measured = "" if finding.measured is None else write(finding.measured)
    interval = (
        "" if finding.low is None or finding.high is None else _between((finding.low, finding.high), write)
    )
    sign = "≥" if finding.bound == AT_LEAST else "≤"
    threshold = "" if finding.threshold is None else f"{sign} {write(finding.threshold)}"
    return measured, interval, threshold


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f} points" if difference else "0 points"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


_WRITERS: Mapping[str, Callable[[float], str]] = {
    SHARE: _percent,
    POINTS: _points,
    ERROR: lambda error: f"{error:.3f}",
    SECONDS: _milliseconds,
    TIMES: lambda times: f"{times:.2f} ×",
}


def _between(interval: tuple[float, float], write: Callable[[float], str] = _percent) -> str:
    low, high = map(write, interval)
    unit = low.rpartition(" ")[2]
    # The unit is written once.
    return f"{low.removesuffix(unit).strip()} to {high}" if high.endswith(f" {unit}") else f"{low} to {high}"


def _metrics(evaluation: Evaluation, compared: Evaluation | None) -> list[tuple[str, str, str]]:
    """Name, candidate's and champion's figure of what one looks at first."""

    def row(name: str, figure: Callable[[Evaluation], str]) -> tuple[str, str, str]:
        return name, figure(evaluation), figure(compared) if compared else ""

    return [
        row("Accuracy", lambda e: f"{_percent(e.accuracy)} ({_between(e.accuracy_interval)})"),
        row("Accuracy without duplicates", lambda e: _percent(e.accuracy_without_duplicates)),
        row("Lowest recall of a class", _lowest_recall),
        row("Lowest accuracy under corruption", _lowest_robustness),
        row("Calibration error", lambda e: f"{e.calibration_error:.3f}"),
        row("Log loss", lambda e: f"{e.log_loss:.3f}"),
        row("Answered at the threshold", _coverage),
        row("One image, median", lambda e: _milliseconds(e.latency_p50)),
        row("One image, 95th percentile", lambda e: _milliseconds(e.latency_p95)),
        row("Size of the model", lambda e: f"{e.model_bytes / 2**20:.2f} MiB" if e.model_bytes else "–"),
    ]


def _lowest_recall(evaluation: Evaluation) -> str:
    name, recall = min(evaluation.recall.items(), key=lambda item: item[1])
    return f"{_percent(recall)} ({name})"


def _lowest_robustness(evaluation: Evaluation) -> str:
    if not evaluation.corruptions:
        return "–"
    shares = {name: float(evaluation.right_under(name).mean()) for name in evaluation.corruptions}
    name, share = min(shares.items(), key=lambda item: item[1])
    return f"{_percent(share)} ({name})"


def _coverage(evaluation: Evaluation) -> str:
    if evaluation.coverage is None:
        return "–"
    answered, wrong = evaluation.coverage
    return f"{_percent(answered / evaluation.images)}, {_percent(wrong / max(answered, 1))} of them wrong"


def _changes(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, candidate's and champion's value of the parameters and origins that differ."""

    def values(provenance: Mapping[str, Any]) -> dict[str, str]:
        origins = {
            "source revision": provenance.get("source_revision"),
            "training code": str(provenance.get("code_digest"))[:12],
            "data digest": str(provenance.get("data_digest"))[:12],
        }
        parameters = {**origins, **provenance.get("parameters", {})}
        return {
            name: f"{value:.4g}" if isinstance(value, float) else str(value)
            for name, value in parameters.items()
        }

    ours, theirs = values(candidate), values(champion)
    return [
        (name, ours.get(name, "–"), theirs.get(name, "–"))
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]


def _provenance(side: Side) -> list[tuple[str, str]]:
    evaluation, provenance = side.evaluation, side.provenance
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
        "Machine that measured": evaluation.machine if evaluation else None,
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _plots(evaluation: Evaluation, compared: Evaluation | None) -> dict[str, str]:
    drawn = {
        "confusion": figures.confusion_matrix(evaluation),
        "reliability": figures.reliability(evaluation, compared),
        "coverage": figures.coverage(evaluation, compared),
    }
    if evaluation.corruptions:
        drawn["robustness"] = figures.robustness(evaluation, compared)
    return {name: _svg(figure) for name, figure in drawn.items()}


def _svg(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _data_uri(buffer.getvalue(), "image/svg+xml")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
