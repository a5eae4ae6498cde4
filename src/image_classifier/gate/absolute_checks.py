"""The gate's absolute checks: what every candidate must reach, whatever the champion does."""

import numpy as np
from scipy.stats import binom

from image_classifier.evaluation import ClassMetrics, Estimate, Evaluation, wilson_interval
from image_classifier.gate.formatting import between, error, milliseconds, percent, percent_limit
from image_classifier.gate.rules import AT_MOST, ERROR, SECONDS, RuleOutcome, RuleResult, Thresholds, decide_by_value
from image_classifier.gate.statistics import calibration_interval
from image_classifier.text import counted

_BOUND_SIGNIFICANCE = 0.025  # of each bound of a 95 % interval
_FALSE_ALARMS = 0.05  # of the check of all recalls
_MIN_CLASS_IMAGES = 5


def _better_than_guessing(candidate: Evaluation, _: Thresholds) -> RuleResult:
    (low, high), baseline = candidate.accuracy_interval, candidate.majority_baseline
    outcome = RuleOutcome.PASS if low > baseline else RuleOutcome.FAIL
    share = percent(baseline)
    reason = f"accuracy is at least {percent(low)} (95 % confidence); the majority-class baseline is {share}"
    if outcome is RuleOutcome.FAIL:
        accuracy = f"accuracy {percent(candidate.accuracy)} ({between((low, high))})"
        reason = f"{accuracy} is not significantly above the majority-class baseline of {share}"
    return RuleResult.of("better-than-guessing", outcome, reason, Estimate(candidate.accuracy, low, high), baseline)


def _accuracy(candidate: Evaluation, thresholds: Thresholds) -> RuleResult:
    measured, interval = candidate.accuracy, candidate.accuracy_interval
    return _at_least("min-accuracy", "accuracy", measured, interval, thresholds.min_accuracy)


def _recall(candidate: Evaluation, thresholds: Thresholds) -> RuleResult:
    if isinstance(thresholds.min_recall, str):
        return _recall_above_guessing(candidate)
    worst = _lowest_recall(candidate)
    metric = f"recall of class {worst.name!r}"
    return _at_least("min-recall", metric, worst.correct / worst.images, worst.recall_interval, thresholds.min_recall)


def _recall_above_guessing(candidate: Evaluation) -> RuleResult:
    """No class is recognized less often than by half of what guessing among the K classes gives, 1/(2K).

    A class below that is a failure if so few correct predictions would be a surprise, had the class the overall
    accuracy: if their probability (binomial) is below 0.05/K, as each of K classes may be below by chance. Otherwise
    its test images are too few to say, which holds the candidate from 5 images on; fewer are no evidence at all.
    """
    rule, count = "min-recall", len(candidate.classes)
    floor, significance = 1 / (2 * count), _FALSE_ALARMS / count
    below = [metrics for metrics in candidate.by_class if metrics.images and metrics.correct / metrics.images < floor]
    surprise = {
        metrics.name: float(binom.cdf(metrics.correct, metrics.images, candidate.accuracy)) for metrics in below
    }
    failing = [metrics for metrics in below if surprise[metrics.name] < significance]
    unclear = [metrics for metrics in below if metrics.images >= _MIN_CLASS_IMAGES]
    worst = min(failing or unclear or below or [_lowest_recall(candidate)], key=_correct_share)
    outcome = RuleOutcome.FAIL if failing else RuleOutcome.UNDECIDED if unclear else RuleOutcome.PASS
    others = len(failing or unclear) - 1
    also = f" and of {counted(others, 'other class')}" if others > 0 else ""
    relation = "is below" if failing or unclear else "meets" if not below else "has too few test images for"
    reason = (
        f"recall of class {worst.name!r}{also} {relation} the minimum of {percent(floor)}, half of what guessing among "
        f"{count:,} classes gives: {worst.correct:,} of {worst.images:,} test images are correct"
    )
    estimate = Estimate(_correct_share(worst), *worst.recall_interval)
    return RuleResult.of(rule, outcome, reason, estimate, floor)


def _correct_share(metrics: ClassMetrics) -> float:
    return metrics.correct / metrics.images


def _lowest_recall(candidate: Evaluation) -> ClassMetrics:
    return min((metrics for metrics in candidate.by_class if metrics.images), key=_correct_share)


def _robustness(candidate: Evaluation, thresholds: Thresholds) -> RuleResult:
    rule, minimum = "min-robustness", thresholds.min_robustness
    if not candidate.corruptions:
        reason = "robustness was not measured when this version was evaluated"
        return RuleResult(rule, RuleOutcome.NOT_MEASURED, reason, threshold=minimum)
    correct = {name: candidate.correct_under(name) for name in candidate.corruptions}
    name, worst = min(correct.items(), key=lambda item: float(item[1].mean()))
    interval = wilson_interval(int(np.sum(worst)), len(worst))
    return _at_least(rule, f"accuracy under {name!r}", float(worst.mean()), interval, minimum)


def _calibration(candidate: Evaluation, thresholds: Thresholds) -> RuleResult:
    value, maximum = candidate.calibration_error, thresholds.max_calibration_error
    interval = calibration_interval(candidate.calibration_deviations, _BOUND_SIGNIFICANCE)
    outcome = decide_by_value(value, maximum, AT_MOST)
    reason = f"calibration error {error(value)} ({between(interval, error)}) {_relation(outcome)} {error(maximum)}"
    estimate = Estimate(value, *interval)
    return RuleResult.of("max-calibration-error", outcome, reason, estimate, maximum, AT_MOST, ERROR)


def _latency(candidate: Evaluation, thresholds: Thresholds) -> RuleResult:
    p95, maximum = candidate.latency_p95, thresholds.max_latency
    outcome = decide_by_value(p95, maximum, AT_MOST)
    low, high = candidate.latency_p95_interval or (None, None)
    reason = f"p95 latency {milliseconds(p95)} {_relation(outcome)} {milliseconds(maximum)}"
    return RuleResult("max-latency", outcome, reason, p95, low, high, maximum, AT_MOST, SECONDS)


def _duplicates(candidate: Evaluation, thresholds: Thresholds) -> RuleResult:
    rule, maximum, found = "max-duplicates", thresholds.max_duplicates, candidate.duplicates
    if found is None:
        reason = "duplicates between training and test part were not counted when this version was evaluated"
        return RuleResult(rule, RuleOutcome.NOT_MEASURED, reason, threshold=maximum, bound=AT_MOST)
    return RuleResult(
        rule,
        decide_by_value(found.share, maximum, AT_MOST),
        f"{len(found.rows):,} of {found.test_images:,} test images ({percent(found.share, 2)}) are duplicates of "
        f"training images, {len(found.exact):,} of them exact; the maximum is {percent_limit(maximum)}",
        measured=found.share,
        threshold=maximum,
        bound=AT_MOST,
    )


ABSOLUTE_CHECKS = (_better_than_guessing, _accuracy, _recall, _robustness, _calibration, _latency, _duplicates)


def _at_least(rule: str, metric: str, measured: float, interval: tuple[float, float], minimum: float) -> RuleResult:
    outcome = decide_by_value(measured, minimum)
    shown = f" ({between(interval)})"
    relation = "is below" if outcome is RuleOutcome.FAIL else "meets"
    reason = f"{metric} {percent(measured, 2)}{shown} {relation} the minimum of {percent_limit(minimum)}"
    return RuleResult.of(rule, outcome, reason, Estimate(measured, *interval), minimum)


def _relation(outcome: RuleOutcome) -> str:
    return "exceeds the maximum of" if outcome is RuleOutcome.FAIL else "is within the maximum of"
