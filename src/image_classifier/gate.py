"""Whether a candidate may take the champion's place: a list of rules, each with what it measured."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from image_classifier.evaluation import Evaluation
from image_classifier.settings import Settings

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Finding:
    """What a rule found, and the sentence that says so."""

    rule: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Accepted when every rule passed."""

    findings: tuple[Finding, ...]

    @property
    def accepted(self) -> bool:
        return all(finding.passed for finding in self.findings)

    @property
    def word(self) -> str:
        return "accepted" if self.accepted else "refused"

    @property
    def reason(self) -> str:
        """In words: the rules that failed, or what spoke for the candidate."""
        telling = self.findings if self.accepted else [f for f in self.findings if not f.passed]
        return "; ".join(finding.reason for finding in telling)

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.word, "reason": self.reason, "findings": [asdict(f) for f in self.findings]}


def judge(candidate: Evaluation, champion: Evaluation | None, settings: Settings) -> Verdict:
    """Judge a candidate by the floors and, on the same test images, against the champion.

    `champion` is None where there is none, or none that can be compared: the floors alone decide then.
    Both evaluations must be of the same test images in the same order.
    """
    findings = [rule(candidate, settings) for rule in FLOORS]
    if champion is None:
        findings.append(Finding("champion", True, "there is no champion to compare with"))
    else:
        findings.extend(_against_champion(candidate, champion, settings))
    return Verdict(tuple(findings))


def _better_than_guessing(candidate: Evaluation, _: Settings) -> Finding:
    low = candidate.accuracy_interval[0]
    share = candidate.largest_class_share
    return Finding(
        "better-than-guessing",
        low > share,
        f"accuracy is surely above {low:.1%}, and always answering the commonest class gives {share:.1%}",
    )


def _accuracy(candidate: Evaluation, settings: Settings) -> Finding:
    return _at_least("min-accuracy", "accuracy", candidate.accuracy, settings.min_accuracy)


def _recall(candidate: Evaluation, settings: Settings) -> Finding:
    name, recall = min(candidate.recall.items(), key=lambda item: item[1])
    return _at_least("min-recall", f"recall of class {name!r}", recall, settings.min_recall)


def _calibration(candidate: Evaluation, settings: Settings) -> Finding:
    error, most = candidate.calibration_error, settings.max_calibration_error
    sign = "within" if error <= most else "above"
    return Finding(
        "max-calibration-error", error <= most, f"calibration error {error:.3f} is {sign} {most:.3f}"
    )


def _latency(candidate: Evaluation, settings: Settings) -> Finding:
    p95, most = candidate.latency_p95, settings.max_latency
    sign = "within" if p95 <= most else "above"
    return Finding(
        "max-latency",
        p95 <= most,
        f"95 % of single images take {p95 * 1e3:.1f} ms, {sign} {most * 1e3:.1f} ms",
    )


FLOORS: tuple[Callable[[Evaluation, Settings], Finding], ...] = (
    _better_than_guessing,
    _accuracy,
    _recall,
    _calibration,
    _latency,
)


def _against_champion(candidate: Evaluation, champion: Evaluation, settings: Settings) -> Iterator[Finding]:
    gained = int(np.sum(candidate.right & ~champion.right))
    lost = int(np.sum(~candidate.right & champion.right))
    drop = champion.accuracy - candidate.accuracy
    yield Finding(
        "max-accuracy-drop",
        drop <= settings.max_accuracy_drop,
        f"accuracy {candidate.accuracy:.2%} against the champion's {champion.accuracy:.2%} "
        f"(at most {settings.max_accuracy_drop:.2%} lower is allowed)",
    )
    # McNemar's exact test, one-sided: were both equally good, as many answers would be lost as gained.
    chance = float(binomtest(lost, lost + gained, alternative="greater").pvalue) if lost + gained else 1.0
    yield Finding(
        "not-worse-than-champion",
        chance >= SIGNIFICANCE,
        f"of {candidate.images} test images it loses {lost} that the champion gets right and gains {gained} "
        f"(a model no worse would lose as many with probability {chance:.2g})",
    )


def _at_least(rule: str, what: str, measured: float, floor: float) -> Finding:
    sign = "reaches" if measured >= floor else "is below"
    return Finding(rule, measured >= floor, f"{what} {measured:.2%} {sign} the floor of {100 * floor:g}%")
