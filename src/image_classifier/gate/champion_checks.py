"""The gate's comparisons of a candidate with the champion, and with the best version so far, on the same images.

The accuracy decides whether the candidate is accepted, held or refused. The other comparisons are guards, which refuse
a significant loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from image_classifier.evaluation import Estimate, Evaluation
from image_classifier.gate.formatting import between, error, error_difference, percent, points, points_limit, ratio
from image_classifier.gate.rules import (
    AT_MOST,
    ERROR,
    POINTS,
    TIMES,
    Policy,
    RuleOutcome,
    RuleResult,
    Thresholds,
    decide_by_interval,
)
from image_classifier.gate.statistics import (
    Correct,
    Scores,
    calibration_difference,
    gained_and_lost,
    holm_adjusted,
    mean_estimate,
    probability_above,
    score_difference,
    score_p_value,
    skill_differences,
)
from image_classifier.text import listed

FALSE_REFUSALS = 0.05
"""Maximum probability that the guards together refuse a candidate that is no worse than the champion."""
REFUSED_PROBABILITY = 0.05
"""A candidate whose accuracy is as wanted with a lower probability is refused, and not only held."""
CALIBRATION_MARGIN = 0.02
"""Increase of the calibration error that does not count as worse."""


@dataclass(frozen=True)
class Pair:
    """A candidate and another version, evaluated on the same test images in the same order."""

    candidate: Evaluation
    champion: Evaluation
    latency_ratio: Estimate | None = None
    """Median latency as a multiple of the champion's, measured alternately on one machine; None: not measured so."""


def not_worse_than_champion(pair: Pair, thresholds: Thresholds) -> RuleResult:
    """Whether the accuracy suffices to replace the champion, by the policy `gate_policy`."""
    return _skill(pair, thresholds, "not-worse-than-champion", "the champion")


def not_worse_than_best(pair: Pair, thresholds: Thresholds) -> RuleResult:
    """Whether the accuracy suffices beside the best version so far, so that many small drops do not add up."""
    return _skill(pair, thresholds, "not-worse-than-best", "the best version so far")


def _skill(pair: Pair, thresholds: Thresholds, rule: str, other: str) -> RuleResult:
    candidate, champion, policy = pair.candidate, pair.champion, Policy(thresholds.gate_policy)
    drop = policy.tolerated_drop(thresholds.max_accuracy_drop)
    differences = skill_differences(_scores(candidate), _scores(champion))
    difference = mean_estimate(differences)
    probability = probability_above(differences, -drop)
    gained, lost = gained_and_lost(candidate.correct, champion.correct)
    wanted = f"at most {points_limit(drop)} worse" if drop else "better" if policy is Policy.IMPROVE else "not worse"
    has_brier = bool(candidate.brier_scores and champion.brier_scores)
    measured = "accuracy and Brier score together show" if has_brier else "this shows"
    return _result(
        rule,
        accuracy_outcome(probability, policy),
        f"accuracy {percent(candidate.accuracy, 2)} against {percent(champion.accuracy, 2)} of {other}, {lost:,} of "
        f"{candidate.images:,} test images newly wrong and {gained:,} newly correct; {measured} a difference of "
        f"{points(difference.value)} ({between((difference.low, difference.high), points)}), so it is {wanted} with a "
        f"probability of {percent(probability, 0)}; the policy {policy} requires "
        f"{percent(policy.required_probability, 0)}",
        difference,
        -drop,
    )


def accuracy_outcome(probability: float, policy: Policy) -> RuleOutcome:
    """The outcome for the probability that the accuracy is as the policy wants it."""
    if probability >= policy.required_probability:
        return RuleOutcome.PASS
    return RuleOutcome.FAIL if probability < REFUSED_PROBABILITY else RuleOutcome.UNDECIDED


def _scores(evaluation: Evaluation) -> Scores:
    return Scores(evaluation.correct, np.array(evaluation.brier_scores) if evaluation.brier_scores else None)


def accuracy_drop(pair: Pair, thresholds: Thresholds) -> RuleResult:
    """Whether the accuracy alone, without the Brier scores, dropped significantly by more than the maximum."""
    candidate, champion, maximum = pair.candidate, pair.champion, thresholds.max_accuracy_drop
    difference = score_difference(candidate.correct, champion.correct, SIGNIFICANCE)
    dropped = "dropped" if difference.high < -maximum else "did not drop"
    return _at_least(
        "max-accuracy-drop",
        f"accuracy {percent(candidate.accuracy, 2)} against the champion's {percent(champion.accuracy, 2)} "
        f"({between((difference.low, difference.high), points)}) {dropped} significantly by "
        f"more than {points_limit(maximum)}",
        difference,
        -maximum,
    )


def _recall_drop(pair: Pair, thresholds: Thresholds) -> RuleResult:
    labels = np.array(pair.candidate.labels)
    rows = {repr(name): labels == index for index, name in enumerate(pair.candidate.classes)}
    return _no_group_worse(
        "max-recall-drop",
        ("no class's recall", "recall of class"),
        thresholds.max_recall_drop,
        {
            name: (pair.candidate.correct[of_class], pair.champion.correct[of_class])
            for name, of_class in rows.items()
            if of_class.any()
        },
    )


def _robustness_drop(pair: Pair, thresholds: Thresholds) -> RuleResult:
    rule = "max-robustness-drop"
    candidate, champion = pair.candidate.robustness, pair.champion.robustness
    names = [name for name in pair.candidate.corruptions if name in pair.champion.corruptions]
    # A model of another image size is evaluated on fewer or more of the same test images.
    count = min(len(measured.rows) if measured else 0 for measured in (candidate, champion))
    if candidate is None or champion is None or not names or candidate.rows[:count] != champion.rows[:count]:
        reason = "the robustness of both was not measured on the same images"
        return RuleResult(
            rule, RuleOutcome.NOT_MEASURED, reason, threshold=-thresholds.max_robustness_drop, unit=POINTS
        )
    return _no_group_worse(
        rule,
        ("no accuracy under corruption", "accuracy under"),
        thresholds.max_robustness_drop,
        {
            repr(name): (pair.candidate.correct_under(name)[:count], pair.champion.correct_under(name)[:count])
            for name in names
        },
    )


def _calibration_rise(pair: Pair, _: Thresholds) -> RuleResult:
    candidate, champion = pair.candidate, pair.champion
    rise = calibration_difference(candidate.calibration_deviations, champion.calibration_deviations, SIGNIFICANCE)
    return RuleResult.of(
        "calibration-not-worse",
        decide_by_interval(rise.low, rise.high, CALIBRATION_MARGIN, AT_MOST),
        f"calibration error {error(candidate.calibration_error)} against the champion's "
        f"{error(champion.calibration_error)} ({between((rise.low, rise.high), error_difference)}); the maximum "
        f"increase is {error(CALIBRATION_MARGIN)}",
        rise,
        CALIBRATION_MARGIN,
        AT_MOST,
        ERROR,
    )


def _latency_rise(pair: Pair, thresholds: Thresholds) -> RuleResult:
    rule, maximum = "max-latency-ratio", thresholds.max_latency_ratio
    candidate, champion = pair.candidate, pair.champion
    if pair.latency_ratio is not None:
        times, how = pair.latency_ratio, "measured alternately"
    elif candidate.machine and candidate.machine == champion.machine:
        times = Estimate(
            candidate.latency_p50 / champion.latency_p50,
            # Wide bounds, from the median to the slowest calls: other work may have slowed either measurement.
            candidate.latency_p50 / champion.latency_p95,
            candidate.latency_p95 / champion.latency_p50,
        )
        how = "measured at different times on machines of the same kind"
    else:
        machines = [evaluation.machine or "an unknown machine" for evaluation in (candidate, champion)]
        reason = f"latency was measured on {machines[0]}, and the champion's on {machines[1]}"
        return RuleResult(rule, RuleOutcome.NOT_MEASURED, reason, threshold=maximum, bound=AT_MOST, unit=TIMES)
    return RuleResult.of(
        rule,
        decide_by_interval(times.low, times.high, maximum, AT_MOST),
        f"median latency {ratio(times.value)} the champion's ({between((times.low, times.high), ratio)}, {how}); the "
        f"maximum is {maximum:g} ×",
        times,
        maximum,
        AT_MOST,
        TIMES,
    )


GUARDS = (accuracy_drop, _recall_drop, _robustness_drop, _calibration_rise, _latency_rise)
SIGNIFICANCE = FALSE_REFUSALS / len(GUARDS)
"""Of each guard: Bonferroni's correction holds FALSE_REFUSALS for all, however they depend on each other."""


def _result(rule: str, outcome: RuleOutcome, reason: str, difference: Estimate, threshold: float) -> RuleResult:
    return RuleResult.of(rule, outcome, reason, difference, threshold, unit=POINTS)


def _at_least(rule: str, reason: str, difference: Estimate, threshold: float) -> RuleResult:
    return _result(rule, decide_by_interval(difference.low, difference.high, threshold), reason, difference, threshold)


def _no_group_worse(
    rule: str, subjects: tuple[str, str], drop: float, groups: Mapping[str, tuple[Correct, Correct]]
) -> RuleResult:
    """The accuracy of no group of images dropped significantly by more than `drop`, with Holm's correction.

    The numbers are those of the most significant group; its interval has Bonferroni's correction, which for this one
    group decides as Holm's does. `subjects` are the subject of the sentence if no group is worse, and if some are.
    """
    names = list(groups)
    p_values = holm_adjusted([score_p_value(*groups[name], drop) for name in names])
    worse = [name for name, p_value in zip(names, p_values, strict=True) if p_value < SIGNIFICANCE]
    worst = names[int(np.argmin(p_values))]
    candidate, champion = groups[worst]
    difference = score_difference(candidate, champion, SIGNIFICANCE / len(names))
    subject = f"{subjects[1]} {listed(worse)}" if worse else subjects[0]
    quoted = "most significant" if worse else "closest"
    return _at_least(
        rule,
        f"{subject} dropped significantly by more than {points_limit(drop)} ({quoted}: {worst}, "
        f"{percent(float(candidate.mean()))} against {percent(float(champion.mean()))}, "
        f"{between((difference.low, difference.high), points)})",
        difference,
        -drop,
    )
