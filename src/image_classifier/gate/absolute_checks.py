"""The gate's floors: what every candidate must reach, whatever the champion does."""

from collections.abc import Callable

import numpy as np

from image_classifier.evaluation import Evaluation, wilson_interval
from image_classifier.gate.rule_result import AT_MOST, ERROR, SECONDS, RuleOutcome, RuleResult, by_measured
from image_classifier.gate.statistics import calibration_interval
from image_classifier.settings import Settings

_INTERVAL_MISSED = 0.025
"""Of an interval's two bounds, each: the intervals of floors are of 95 %."""


def _better_than_guessing(candidate: Evaluation, _: Settings) -> RuleResult:
    low, high = candidate.accuracy_interval
    share = candidate.largest_class_share
    return RuleResult(
        "better-than-guessing",
        RuleOutcome.PASS if low > share else RuleOutcome.FAIL,
        f"accuracy is surely above {low:.1%}, and always answering the commonest class gives {share:.1%}",
        measured=candidate.accuracy,
        low=low,
        high=high,
        threshold=share,
    )


def _accuracy(candidate: Evaluation, settings: Settings) -> RuleResult:
    return _at_least(
        "min-accuracy", "accuracy", candidate.accuracy, candidate.accuracy_interval, settings.min_accuracy
    )


def _recall(candidate: Evaluation, settings: Settings) -> RuleResult:
    tested = [figures for figures in candidate.by_class if figures.images]
    worst = min(tested, key=lambda figures: figures.right / figures.images)
    return _at_least(
        "min-recall",
        f"recall of class {worst.name!r}",
        worst.right / worst.images,
        worst.recall_interval,
        settings.min_recall,
    )


def _robustness(candidate: Evaluation, settings: Settings) -> RuleResult:
    rule, floor = "min-robustness", settings.min_robustness
    if not candidate.corruptions:
        return RuleResult(
            rule,
            RuleOutcome.UNDECIDED,
            "robustness was not measured when this version was evaluated",
            threshold=floor,
        )
    rights = {name: candidate.right_under(name) for name in candidate.corruptions}
    name, right = min(rights.items(), key=lambda item: float(item[1].mean()))
    interval = wilson_interval(int(np.sum(right)), len(right))
    return _at_least(rule, f"accuracy under {name!r}", float(right.mean()), interval, floor)


def _calibration(candidate: Evaluation, settings: Settings) -> RuleResult:
    error, most = candidate.calibration_error, settings.max_calibration_error
    low, high = calibration_interval(candidate.calibration_deviations, _INTERVAL_MISSED)
    outcome = by_measured(error, (low, high), most, AT_MOST)
    sign = "above" if outcome is RuleOutcome.FAIL else "within"
    return RuleResult(
        "max-calibration-error",
        outcome,
        f"calibration error {error:.3f} ({low:.3f} to {high:.3f}) is {sign} {most:.3f}",
        measured=error,
        low=low,
        high=high,
        threshold=most,
        bound=AT_MOST,
        unit=ERROR,
    )


def _latency(candidate: Evaluation, settings: Settings) -> RuleResult:
    p95, most = candidate.latency_p95, settings.max_latency
    outcome = by_measured(p95, candidate.latency_p95_interval, most, AT_MOST)
    sign = "above" if outcome is RuleOutcome.FAIL else "within"
    low, high = candidate.latency_p95_interval or (None, None)
    return RuleResult(
        "max-latency",
        outcome,
        f"95 % of single images take {p95 * 1e3:.2g} ms, {sign} {most * 1e3:g} ms",
        measured=p95,
        low=low,
        high=high,
        threshold=most,
        bound=AT_MOST,
        unit=SECONDS,
    )


def _duplicates(candidate: Evaluation, settings: Settings) -> RuleResult:
    rule, most, found = "max-duplicates", settings.max_duplicates, candidate.duplicates
    if found is None:
        return RuleResult(
            rule,
            RuleOutcome.UNDECIDED,
            "duplicates in training and test were not looked for when this version was evaluated",
            threshold=most,
            bound=AT_MOST,
        )
    outcome = by_measured(found.share, None, most, AT_MOST)
    sign = "above" if outcome is RuleOutcome.FAIL else "within"
    return RuleResult(
        rule,
        outcome,
        f"{len(found.rows):,} of {found.test_images:,} test images ({found.share:.2%}) are duplicates of training "
        f"images, {len(found.exact):,} of them exact, {sign} {100 * most:g}%",
        measured=found.share,
        threshold=most,
        bound=AT_MOST,
    )


FLOORS: tuple[Callable[[Evaluation, Settings], RuleResult], ...] = (
    _better_than_guessing,
    _accuracy,
    _recall,
    _robustness,
    _calibration,
    _latency,
    _duplicates,
)


def _at_least(
    rule: str, what: str, measured: float, interval: tuple[float, float], floor: float
) -> RuleResult:
    outcome = by_measured(measured, interval, floor)
    low, high = interval
    between = f"({low:.1%} to {high:.1%})"
    sign = "is below" if outcome is RuleOutcome.FAIL else f"{between} reaches" if low < floor else "reaches"
    reason = f"{what} {measured:.2%} {sign} the floor of {100 * floor:g}%"
    return RuleResult(rule, outcome, reason, measured=measured, low=low, high=high, threshold=floor)
