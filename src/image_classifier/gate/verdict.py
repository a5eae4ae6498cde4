"""The verdict: whether a candidate may replace the champion, from the results of the rules.

An absolute check fails a measured value that misses its threshold. A comparison, on the same test images, fails only a
significant loss: together the comparisons refuse a model that is no worse with a probability of at most FALSE_REFUSALS.
An interval that includes the threshold does not refuse; it is reported as "not enough evidence".
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from image_classifier.evaluation import Estimate, Evaluation
from image_classifier.gate.absolute_checks import ABSOLUTE_CHECKS
from image_classifier.gate.champion_checks import CHAMPION_CHECKS, Pair
from image_classifier.gate.rules import RuleOutcome, RuleResult, Thresholds
from image_classifier.registry import Decision, RecordedVerdict
from image_classifier.text import listed

CHAMPION = "champion"
"""The rule that says whether there is a champion to compare with."""
NO_CHAMPION = RuleResult(CHAMPION, RuleOutcome.PASS, "there is no champion to compare with")
_SUMMARY = ("min-accuracy", "not-worse-than-champion", CHAMPION)
"""Rules that the reason of an accepted verdict quotes."""


@dataclass(frozen=True)
class Verdict:
    """Accepted if no rule failed."""

    results: tuple[RuleResult, ...]

    @property
    def accepted(self) -> bool:
        return self.decision is Decision.ACCEPTED

    @property
    def decision(self) -> Decision:
        failed = any(result.outcome is RuleOutcome.FAIL for result in self.results)
        return Decision.REFUSED if failed else Decision.ACCEPTED

    @property
    def reason(self) -> str:
        """The rules that failed; for an accepted verdict, the main rules and what is undecided."""
        if self.accepted:
            quoted = [r for r in self.results if r.rule in _SUMMARY or r.outcome is RuleOutcome.UNDECIDED]
        else:
            quoted = [r for r in self.results if r.outcome is RuleOutcome.FAIL]
        return "; ".join(result.sentence for result in quoted)

    def to_record(self) -> RecordedVerdict:
        """The form in which the registry stores it."""
        return RecordedVerdict(self.decision, self.reason, tuple(asdict(result) for result in self.results))


def judge(
    candidate: Evaluation,
    champion: Evaluation | None,
    thresholds: Thresholds,
    *,
    latency_ratio: Estimate | None = None,
    comparable: RuleResult = NO_CHAMPION,
) -> Verdict:
    """Judge a candidate by the absolute checks and, on the same test images, against the champion.

    `champion` is None if there is none, or none that can be compared: then only the absolute checks apply, and the
    result `comparable` says why. Both evaluations must be of the same test images in the same order.
    """
    results = [check(candidate, thresholds) for check in ABSOLUTE_CHECKS]
    if champion is None:
        results.append(comparable)
    else:
        results += [check(Pair(candidate, champion, latency_ratio), thresholds) for check in CHAMPION_CHECKS]
    return Verdict(tuple(results))


@dataclass(frozen=True)
class Comparability:
    """How a candidate can be compared with the champion."""

    result: RuleResult
    recorded: Evaluation | None = None
    """The champion's recorded evaluation, if it is of the candidate's test images."""
    needs_evaluation: bool = False
    """Whether the champion must be evaluated on the candidate's test images first."""


def comparability(
    number: int, candidate: Evaluation, recorded: Evaluation | None, packaged_classes: Sequence[str] | None
) -> Comparability:
    """How to compare a candidate with version `number`, the champion.

    `recorded` is the champion's recorded evaluation, `packaged_classes` are the classes of its package; each is None
    if the registry has lost it. A champion that is lost, or that has other classes, does not block a candidate.
    """
    name = f"version {number}, the champion,"
    classes = recorded.classes if recorded else packaged_classes
    if classes is None:
        return _not_comparable(f"{name} has neither an evaluation nor files in the registry")
    if tuple(classes) != candidate.classes:
        return _not_comparable(
            f"{name} has other classes ({listed(classes)}) than the candidate ({listed(candidate.classes)})"
        )
    comparable = RuleResult(CHAMPION, RuleOutcome.PASS, f"{name} is compared on the same test images")
    if recorded is not None and _same_images(recorded, candidate):
        if packaged_classes is None or set(candidate.corruptions) <= set(recorded.corruptions):
            return Comparability(comparable, recorded=recorded)
    elif packaged_classes is None:
        return _not_comparable(f"{name} was evaluated on other data, and its files are missing in the registry")
    return Comparability(comparable, needs_evaluation=True)


def _same_images(recorded: Evaluation, candidate: Evaluation) -> bool:
    return (recorded.data_digest, recorded.test_fraction) == (candidate.data_digest, candidate.test_fraction)


def _not_comparable(reason: str) -> Comparability:
    return Comparability(RuleResult(CHAMPION, RuleOutcome.UNDECIDED, f"{reason}, so only the absolute checks apply"))
