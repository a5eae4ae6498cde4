"""The gate's comparisons: a candidate must not be significantly worse than the champion on the same images."""

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
    RuleOutcome,
    RuleResult,
    Thresholds,
    decide_by_interval,
)
from image_classifier.gate.statistics import (
    Correct,
    bootstrap_difference,
    calibration_difference,
    exact_difference,
    gained_and_lost,
    holm_adjusted,
    score_difference,
    score_p_value,
)
from image_classifier.text import listed

FALSE_REFUSALS = 0.05
"""Maximum probability that all comparisons together refuse a candidate that is no worse than the champion."""
CALIBRATION_MARGIN = 0.02
"""Increase of the calibration error that does not count as worse."""


@dataclass(frozen=True)
class Pair:
    """A candidate and its champion, evaluated on the same test images in the same order."""

    candidate: Evaluation
    champion: Evaluation
    latency_ratio: Estimate | None
    """Median latency as a multiple of the champion's, measured alternately on one machine; None: not measured so."""


def _accuracy_drop(pair: Pair, thresholds: Thresholds) -> RuleResult:
    candidate, champion, maximum = pair.candidate, pair.champion, thresholds.max_accuracy_drop
    difference = bootstrap_difference(candidate.correct, champion.correct, SIGNIFICANCE)
    return _at_least(
        "max-accuracy-drop",
        f"accuracy {percent(candidate.accuracy, 2)} against the champion's {percent(champion.accuracy, 2)} "
        f"({between((difference.low, difference.high), points)}); the maximum drop is {points_limit(maximum)}",
        difference,
        -maximum,
    )


def _not_worse(pair: Pair, _: Thresholds) -> RuleResult:
    candidate, champion = pair.candidate.correct, pair.champion.correct
    difference = exact_difference(candidate, champion, SIGNIFICANCE)
    gained, lost = gained_and_lost(candidate, champion)
    return _at_least(
        "not-worse-than-champion",
        f"compared with the champion, {lost:,} of {len(candidate):,} test images are newly wrong and {gained:,} newly "
        f"correct ({between((difference.low, difference.high), points)})",
        difference,
        0.0,
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
        return RuleResult(rule, RuleOutcome.UNDECIDED, reason, threshold=-thresholds.max_robustness_drop, unit=POINTS)
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
        return RuleResult(rule, RuleOutcome.UNDECIDED, reason, threshold=maximum, bound=AT_MOST, unit=TIMES)
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


CHAMPION_CHECKS = (_accuracy_drop, _not_worse, _recall_drop, _robustness_drop, _calibration_rise, _latency_rise)
SIGNIFICANCE = FALSE_REFUSALS / len(CHAMPION_CHECKS)
"""Of each comparison: Bonferroni's correction holds FALSE_REFUSALS for all, however they depend on each other."""


def _at_least(rule: str, reason: str, difference: Estimate, threshold: float) -> RuleResult:
    outcome = decide_by_interval(difference.low, difference.high, threshold)
    return RuleResult.of(rule, outcome, reason, difference, threshold, unit=POINTS)


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
