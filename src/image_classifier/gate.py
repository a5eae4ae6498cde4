"""Whether a candidate may take the champion's place: a list of rules, each with what it measured.

A floor refuses a figure that is below it. Against the champion, on the same test images, a candidate is refused
where it is surely worse: the rules together call a model that is no worse so with a probability of at most
FALSE_REFUSALS. A figure whose interval lies on both sides of a threshold is no reason to refuse, and is said to be
"not enough evidence": more test images would tell.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from image_classifier.comparison import (
    Difference,
    accuracy_difference,
    adjusted_for_many,
    calibration_difference,
    chance_of_loss,
)
from image_classifier.evaluation import Evaluation, wilson_interval
from image_classifier.settings import Settings

FALSE_REFUSALS = 0.05
"""Of candidates that are no worse than their champion, at most so many are called worse."""
CALIBRATION_MARGIN = 0.02
"""So much more calibration error than the champion's is still no worse."""


class Outcome(StrEnum):
    """What a rule says."""

    PASS = "pass"  # noqa: S105 (no password)
    FAIL = "fail"
    UNDECIDED = "not enough evidence"


@dataclass(frozen=True)
class Finding:
    """What a rule found, and the sentence that says so; figures are None where a rule has none."""

    rule: str
    outcome: Outcome
    reason: str
    measured: float | None = None
    low: float | None = None
    """With `high` the interval of the measured figure."""
    high: float | None = None
    threshold: float | None = None

    @property
    def in_words(self) -> str:
        """The reason, with a word on how sure it is where that is needed."""
        return f"{self.reason}, {self.outcome}" if self.outcome is Outcome.UNDECIDED else self.reason


@dataclass(frozen=True)
class Verdict:
    """Accepted when no rule failed."""

    findings: tuple[Finding, ...]

    @property
    def accepted(self) -> bool:
        return all(finding.outcome is not Outcome.FAIL for finding in self.findings)

    @property
    def word(self) -> str:
        return "accepted" if self.accepted else "refused"

    @property
    def reason(self) -> str:
        """In words: the rules that failed, or what spoke for the candidate and what is not known."""
        telling = self.findings if self.accepted else [f for f in self.findings if f.outcome is Outcome.FAIL]
        return "; ".join(finding.in_words for finding in telling)

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.word, "reason": self.reason, "findings": [asdict(f) for f in self.findings]}


def judge(candidate: Evaluation, champion: Evaluation | None, settings: Settings) -> Verdict:
    """Judge a candidate by the floors and, on the same test images, against the champion.

    `champion` is None where there is none, or none that can be compared: the floors alone decide then.
    Both evaluations must be of the same test images in the same order.
    """
    findings = [floor(candidate, settings) for floor in FLOORS]
    if champion is None:
        findings.append(Finding("champion", Outcome.PASS, "there is no champion to compare with"))
    else:
        findings.extend(comparison(candidate, champion, settings) for comparison in COMPARISONS)
    return Verdict(tuple(findings))


def _better_than_guessing(candidate: Evaluation, _: Settings) -> Finding:
    low, high = candidate.accuracy_interval
    share = candidate.largest_class_share
    return Finding(
        "better-than-guessing",
        Outcome.PASS if low > share else Outcome.FAIL,
        f"accuracy is surely above {low:.1%}, and always answering the commonest class gives {share:.1%}",
        measured=candidate.accuracy,
        low=low,
        high=high,
        threshold=share,
    )


def _accuracy(candidate: Evaluation, settings: Settings) -> Finding:
    return _at_least(
        "min-accuracy", "accuracy", candidate.accuracy, candidate.accuracy_interval, settings.min_accuracy
    )


def _recall(candidate: Evaluation, settings: Settings) -> Finding:
    name, recall = min(candidate.recall.items(), key=lambda item: item[1])
    images = candidate.labels.count(candidate.classes.index(name))
    interval = wilson_interval(round(recall * images), images)
    return _at_least("min-recall", f"recall of class {name!r}", recall, interval, settings.min_recall)


def _calibration(candidate: Evaluation, settings: Settings) -> Finding:
    error, most = candidate.calibration_error, settings.max_calibration_error
    sign = "within" if error <= most else "above"
    return Finding(
        "max-calibration-error",
        Outcome.PASS if error <= most else Outcome.FAIL,
        f"calibration error {error:.3f} is {sign} {most:.3f}",
        measured=error,
        threshold=most,
    )


def _latency(candidate: Evaluation, settings: Settings) -> Finding:
    p95, most = candidate.latency_p95, settings.max_latency
    sign = "within" if p95 <= most else "above"
    return Finding(
        "max-latency",
        Outcome.PASS if p95 <= most else Outcome.FAIL,
        f"95 % of single images take {p95 * 1e3:.1f} ms, {sign} {most * 1e3:.1f} ms",
        measured=p95,
        threshold=most,
    )


def _not_worse(candidate: Evaluation, champion: Evaluation, _: Settings) -> Finding:
    chance = chance_of_loss(candidate.right, champion.right)
    gained = int(np.sum(candidate.right & ~champion.right))
    lost = int(np.sum(~candidate.right & champion.right))
    return Finding(
        "not-worse-than-champion",
        Outcome.PASS if chance >= _SIGNIFICANCE else Outcome.FAIL,
        f"of {candidate.images} test images it loses {lost} that the champion gets right and gains {gained} "
        f"(a model no worse would lose as many with probability {chance:.2g})",
        measured=chance,
        threshold=_SIGNIFICANCE,
    )


def _accuracy_drop(candidate: Evaluation, champion: Evaluation, settings: Settings) -> Finding:
    difference = accuracy_difference(candidate.right, champion.right, _SIGNIFICANCE)
    return _not_below(
        "max-accuracy-drop",
        f"accuracy {candidate.accuracy:.2%} against the champion's {champion.accuracy:.2%} "
        f"({difference.low:+.2%} to {difference.high:+.2%}; at most {settings.max_accuracy_drop:.2%} lower is "
        "allowed)",
        difference,
        -settings.max_accuracy_drop,
    )


def _recall_drop(candidate: Evaluation, champion: Evaluation, _: Settings) -> Finding:
    labels = np.array(candidate.labels)
    present = [index for index in range(len(candidate.classes)) if np.any(labels == index)]
    chances = adjusted_for_many(
        [
            chance_of_loss(candidate.right[labels == index], champion.right[labels == index])
            for index in present
        ]
    )
    worse = [
        candidate.classes[index]
        for index, chance in zip(present, chances, strict=True)
        if chance < _SIGNIFICANCE
    ]
    lowest = present[int(np.argmin(chances))]
    name = candidate.classes[lowest]
    named = ", ".join(repr(name) for name in worse) if worse else "no class"
    return Finding(
        "no-class-worse-than-champion",
        Outcome.FAIL if worse else Outcome.PASS,
        f"{named} is surely recognised less often than by the champion (most of all {name!r}, "
        f"{candidate.recall[name]:.1%} against {champion.recall[name]:.1%}; probability, adjusted for "
        f"{len(present)} classes, {min(chances):.2g})",
        measured=min(chances),
        threshold=_SIGNIFICANCE,
    )


def _calibration_rise(candidate: Evaluation, champion: Evaluation, _: Settings) -> Finding:
    rise = calibration_difference(
        candidate.calibration_deviations, champion.calibration_deviations, _SIGNIFICANCE
    )
    return _not_below(
        "calibration-not-worse",
        f"calibration error {candidate.calibration_error:.3f} against the champion's "
        f"{champion.calibration_error:.3f} ({rise.low:+.3f} to {rise.high:+.3f}; at most "
        f"{CALIBRATION_MARGIN:.3f} higher is allowed)",
        Difference(-rise.value, -rise.high, -rise.low),
        -CALIBRATION_MARGIN,
    )


FLOORS: tuple[Callable[[Evaluation, Settings], Finding], ...] = (
    _better_than_guessing,
    _accuracy,
    _recall,
    _calibration,
    _latency,
)
COMPARISONS: tuple[Callable[[Evaluation, Evaluation, Settings], Finding], ...] = (
    _accuracy_drop,
    _not_worse,
    _recall_drop,
    _calibration_rise,
)
_SIGNIFICANCE = FALSE_REFUSALS / len(COMPARISONS)
"""Of each comparison (Bonferroni): so all of them together keep to FALSE_REFUSALS."""


def _at_least(rule: str, what: str, measured: float, interval: tuple[float, float], floor: float) -> Finding:
    low, high = interval
    if measured < floor:
        outcome, sign = Outcome.FAIL, "is below"
    elif low < floor:
        outcome, sign = Outcome.UNDECIDED, f"({low:.1%} to {high:.1%}) reaches"
    else:
        outcome, sign = Outcome.PASS, "reaches"
    reason = f"{what} {measured:.2%} {sign} the floor of {100 * floor:g}%"
    return Finding(rule, outcome, reason, measured=measured, low=low, high=high, threshold=floor)


def _not_below(rule: str, reason: str, difference: Difference, least: float) -> Finding:
    """Non-inferiority: fails where the difference is surely below `least`, passes where it surely is not."""
    if difference.high < least:
        outcome = Outcome.FAIL
    elif difference.low < least:
        outcome = Outcome.UNDECIDED
    else:
        outcome = Outcome.PASS
    return Finding(
        rule,
        outcome,
        reason,
        measured=difference.value,
        low=difference.low,
        high=difference.high,
        threshold=least,
    )
