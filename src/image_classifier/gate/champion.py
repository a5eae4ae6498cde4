"""The champion as a candidate's opponent: what it is compared by, or why it cannot be compared."""

from collections.abc import Callable
from dataclasses import dataclass

from image_classifier.evaluation import Evaluation
from image_classifier.gate.rule_result import RuleOutcome, RuleResult
from image_classifier.gate.verdict import CHAMPION
from image_classifier.package import Model
from image_classifier.text import shortened


@dataclass(frozen=True)
class ChampionComparison:
    """What is left of a champion to compare a candidate with."""

    evaluation: Evaluation | None
    """On the candidate's test images; None where the floors alone decide, and `why` says so."""
    model: Model | None
    """None where its files are gone."""
    why: RuleResult


def find_opponent(
    number: int,
    candidate: Evaluation,
    known: Evaluation | None,
    model: Model | None,
    evaluate: Callable[[Model], Evaluation],
) -> ChampionComparison:
    """Compare with version `number` by its recorded evaluation `known` where that is of the same test images.

    Where it is of others, or lacks what was measured of the candidate, the champion is evaluated again with its
    `model`. Without its files it is compared by what was recorded, and otherwise not at all: a champion that is
    lost, or that tells other things apart, cannot keep a candidate out that reaches the floors.
    """
    name = f"version {number}, the champion,"
    classes = known.classes if known else model.classes if model else None
    if classes is None:
        return _alone(model, f"{name} has neither an evaluation nor files in the registry any more")
    if classes != candidate.classes:
        return _alone(
            model,
            f"{name} knows other classes ({shortened(classes)}) than the candidate ({shortened(candidate.classes)})",
        )
    if known is not None and _is_of_the_same_images(known, candidate):
        if model is None or set(candidate.corruptions) <= set(known.corruptions):
            return ChampionComparison(known, model, _compared(name))
    elif model is None:
        return _alone(model, f"{name} was evaluated on other data, and its files are gone from the registry")
    assert model is not None
    return ChampionComparison(evaluate(model), model, _compared(name))


def _is_of_the_same_images(known: Evaluation, candidate: Evaluation) -> bool:
    return (known.data_digest, known.test_fraction) == (candidate.data_digest, candidate.test_fraction)


def _compared(name: str) -> RuleResult:
    return RuleResult(CHAMPION, RuleOutcome.PASS, f"{name} is compared with on the same test images")


def _alone(model: Model | None, reason: str) -> ChampionComparison:
    why = RuleResult(CHAMPION, RuleOutcome.UNDECIDED, f"{reason}: the floors alone decide")
    return ChampionComparison(None, model, why)
