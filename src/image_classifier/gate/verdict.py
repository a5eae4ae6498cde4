"""The verdict: whether a candidate may replace the champion, from the results of the rules.

An absolute check fails a measured value that misses its threshold. On the same test images, the accuracy must be shown
to be good enough beside the champion and beside the best version so far; if that is not shown, the candidate is held,
and the champion stays. The guards fail a significant loss: together they refuse a model that is no worse with a
probability of at most FALSE_REFUSALS.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.evaluation import Estimate, Evaluation
from image_classifier.gate.absolute_checks import ABSOLUTE_CHECKS
from image_classifier.gate.champion_checks import GUARDS, Pair, not_worse_than_best, not_worse_than_champion
from image_classifier.gate.rules import RuleOutcome, RuleResult, Thresholds
from image_classifier.registry import Decision, RecordedVerdict
from image_classifier.text import counted, listed

CHAMPION, BEST = "champion", "best-version"
"""The rules that say whether there is a version to compare with."""
NO_CHAMPION = RuleResult(CHAMPION, RuleOutcome.PASS, "there is no champion to compare with")
_SUMMARY = ("min-accuracy", "not-worse-than-champion", CHAMPION)
"""Rules that the reason of an accepted verdict quotes."""

Hashes = npt.NDArray[np.uint64]
"""First 64 bits of the SHA-256 of the content of images; uint64 [N]."""


@dataclass(frozen=True)
class Verdict:
    """Refused if a rule failed, held if one lacks evidence, else accepted."""

    results: tuple[RuleResult, ...]

    @property
    def accepted(self) -> bool:
        return self.decision is Decision.ACCEPTED

    @property
    def decision(self) -> Decision:
        outcomes = {result.outcome for result in self.results}
        if RuleOutcome.FAIL in outcomes:
            return Decision.REFUSED
        return Decision.HELD if RuleOutcome.UNDECIDED in outcomes else Decision.ACCEPTED

    @property
    def deciding(self) -> tuple[RuleResult, ...]:
        """The results that decided: those that failed, or else lack evidence, or else the main ones."""
        for outcome in (RuleOutcome.FAIL, RuleOutcome.UNDECIDED):
            if found := tuple(result for result in self.results if result.outcome is outcome):
                return found
        return tuple(result for result in self.results if result.rule in _SUMMARY)

    @property
    def reason(self) -> str:
        return "; ".join(result.sentence for result in self.deciding)

    def to_record(self) -> RecordedVerdict:
        """The form in which the registry stores it."""
        return RecordedVerdict(self.decision, self.reason, tuple(asdict(result) for result in self.results))


@dataclass(frozen=True)
class Opponent:
    """A version that a candidate is compared with, evaluated on the candidate's test images in the same order."""

    name: str
    """Such as "version 3, the champion"."""
    evaluation: Evaluation
    training_images: Hashes | None = None
    """The images that it was trained on; None: unknown."""
    latency_ratio: Estimate | None = None
    """Its median latency divides the candidate's, measured alternately on one machine; None: not measured so."""


def judge(
    candidate: Evaluation,
    champion: Opponent | None,
    thresholds: Thresholds,
    *,
    best: Opponent | None = None,
    comparable: RuleResult | None = None,
) -> Verdict:
    """Judge a candidate by the absolute checks and, on the same test images, against the champion.

    `champion` is None if there is none, or none that can be compared: then only the absolute checks apply, and the
    result `comparable` says why. `best` is the best champion so far, if it is not the present one: an anchor, so that
    many small drops do not add up. Images that an opponent was trained on do not count in the comparison with it.
    """
    results = [check(candidate, thresholds) for check in ABSOLUTE_CHECKS]
    if champion is None:
        return Verdict((*results, comparable or NO_CHAMPION))
    for rule, opponent, checks in (
        (CHAMPION, champion, (not_worse_than_champion, *GUARDS)),
        (BEST, best, (not_worse_than_best,)),
    ):
        if opponent is not None:
            unseen = _unseen(candidate, opponent)
            results.append(_compared(rule, opponent.name, unseen))
            if unseen.any():
                pair = Pair(
                    candidate if unseen.all() else candidate.of_images(unseen),
                    opponent.evaluation if unseen.all() else opponent.evaluation.of_images(unseen),
                    opponent.latency_ratio,
                )
                results += [check(pair, thresholds) for check in checks]
    return Verdict(tuple(results))


def _unseen(candidate: Evaluation, opponent: Opponent) -> npt.NDArray[np.bool_]:
    """Test images that the opponent was not trained on, as far as it is known; bool [N]."""
    if opponent.training_images is None or not candidate.hashes:
        return np.ones(candidate.images, dtype=bool)
    hashes = np.array([int(value, 16) for value in candidate.hashes], dtype=np.uint64)
    unseen: npt.NDArray[np.bool_] = ~np.isin(hashes, opponent.training_images)
    return unseen


def _compared(rule: str, name: str, unseen: npt.NDArray[np.bool_]) -> RuleResult:
    seen = int((~unseen).sum())
    if seen == len(unseen):
        reason = f"{name}, was trained on all {seen:,} test images, so there is nothing to compare"
        return RuleResult(rule, RuleOutcome.UNDECIDED, reason)
    left_out = f", without {counted(seen, 'image')} that it was trained on" if seen else ""
    return RuleResult(rule, RuleOutcome.PASS, f"{name}, is compared on the same test images{left_out}")


@dataclass(frozen=True)
class Comparability:
    """How a candidate can be compared with the champion."""

    result: RuleResult | None = None
    """Why it cannot; None if it can."""
    recorded: Evaluation | None = None
    """The champion's recorded evaluation, if it is of the candidate's test images."""
    needs_evaluation: bool = False
    """Whether the champion must be evaluated on the candidate's test images first."""


def comparability(
    number: int,
    candidate: Evaluation,
    recorded: Evaluation | None,
    packaged_classes: Sequence[str] | None,
    *,
    role: str = "the champion",
) -> Comparability:
    """How to compare a candidate with version `number`.

    `recorded` is the champion's recorded evaluation, `packaged_classes` are the classes of its package; each is None
    if the registry has lost it. A champion that is lost, or that has other classes, does not block a candidate.
    """
    name = f"version {number}, {role},"
    classes = recorded.classes if recorded else packaged_classes
    if classes is None:
        return _not_comparable(f"{name} has neither an evaluation nor files in the registry")
    if tuple(classes) != candidate.classes:
        return _not_comparable(
            f"{name} has other classes ({listed(classes)}) than the candidate ({listed(candidate.classes)})"
        )
    if recorded is not None and _same_images(recorded, candidate):
        has_scores = bool(recorded.brier_scores) or not candidate.brier_scores
        is_complete = has_scores and set(candidate.corruptions) <= set(recorded.corruptions)
        if packaged_classes is None or is_complete:
            return Comparability(recorded=recorded)
    elif packaged_classes is None:
        return _not_comparable(f"{name} was evaluated on other data, and its files are missing in the registry")
    return Comparability(needs_evaluation=True)


def _same_images(recorded: Evaluation, candidate: Evaluation) -> bool:
    if recorded.hashes and candidate.hashes:
        return (recorded.hashes, recorded.labels) == (candidate.hashes, candidate.labels)
    return (recorded.data_digest, recorded.test_fraction) == (candidate.data_digest, candidate.test_fraction)


def _not_comparable(reason: str) -> Comparability:
    return Comparability(RuleResult(CHAMPION, RuleOutcome.NOT_MEASURED, f"{reason}, so only the absolute checks apply"))
