import re
from dataclasses import replace

import numpy as np
import pytest

from image_classifier.evaluation.duplicates import Duplicates
from image_classifier.evaluation.evaluation import Robustness
from image_classifier.evaluation.intervals import Estimate
from image_classifier.gate.champion_checks import FALSE_REFUSALS
from image_classifier.gate.rules import RuleOutcome, RuleResult, Thresholds
from image_classifier.gate.verdict import comparability, judge
from image_classifier.settings import Settings, pick
from tests.conftest import COLORS
from tests.evaluation.test_evaluation import evaluation_of

THRESHOLDS = pick(Settings(), Thresholds)
CORRUPTIONS = ("blur", "noise")
EQUALLY_FAST = Estimate(1.0, 0.98, 1.02)


def evaluation_with(errors, images=1000, confidence=None, corrupted=None):
    """Three classes of equal size; the images with the numbers in `errors` are misclassified.

    `corrupted` are the errors under each corruption, by default the same.
    """
    labels = np.arange(images) % 3
    accuracy = 1 - len(errors) / images
    confidences = np.full(images, accuracy if confidence is None else confidence)
    corrupted = dict.fromkeys(CORRUPTIONS, errors) | (corrupted or {})
    return replace(
        evaluation_of(labels.tolist(), wrong_at(errors, labels), confidences.tolist()),
        robustness=Robustness(
            tuple(range(images)), {name: tuple(wrong_at(rows, labels)) for name, rows in corrupted.items()}
        ),
    )


def wrong_at(errors, labels):
    predictions = labels.copy()
    predictions[errors] = (predictions[errors] + 1) % 3
    return predictions.tolist()


def judged(candidate, champion=None, ratio=EQUALLY_FAST, **thresholds):
    return judge(candidate, champion, replace(THRESHOLDS, **thresholds), latency_ratio=ratio)


def rules(verdict, outcome):
    return [result.rule for result in verdict.results if result.outcome is outcome]


def failed(verdict):
    return rules(verdict, RuleOutcome.FAIL)


def undecided(verdict):
    return rules(verdict, RuleOutcome.UNDECIDED)


CHAMPION = evaluation_with(range(50))


def with_duplicates(evaluation, count, exact=0):
    rows = tuple(range(count))
    return replace(
        evaluation, duplicates=Duplicates(evaluation.images, 5 * evaluation.images, rows[:exact], rows[exact:], rows)
    )


def test_a_good_first_model_is_accepted_by_the_absolute_checks():
    verdict = judged(evaluation_with(range(50)))
    assert verdict.accepted
    assert "no champion" in verdict.reason
    assert undecided(verdict) == []


@pytest.mark.parametrize(
    ("candidate", "thresholds", "rules"),
    [
        (evaluation_with(range(600)), {}, ["min-accuracy"]),
        (evaluation_with(range(660)), {"min_accuracy": 0.1}, ["better-than-guessing"]),
        (evaluation_with(range(0, 900, 3)), {"min_recall": 0.5}, ["min-recall"]),
        (evaluation_with(range(50), corrupted={"noise": range(300)}), {"min_robustness": 0.8}, ["min-robustness"]),
        (evaluation_with(range(300), confidence=0.99), {}, ["max-calibration-error"]),
        (replace(evaluation_with(range(50)), latency_p95=0.3), {}, ["max-latency"]),
        (with_duplicates(evaluation_with(range(50)), 60, exact=20), {}, ["max-duplicates"]),
    ],
    ids=["inaccurate", "guessing", "poor class", "not robust", "overconfident", "slow", "duplicates"],
)
def test_each_absolute_check_fails_alone(candidate, thresholds, rules):
    assert failed(judged(candidate, **thresholds)) == rules


def test_the_reason_counts_duplicates():
    verdict = judged(with_duplicates(evaluation_with(range(50)), 60, exact=20))
    assert verdict.reason == (
        "60 of 1,000 test images (6.00 %) are duplicates of training images, 20 of them exact; the maximum is 5 %"
    )


def test_predictions_that_are_independent_of_the_labels_are_refused():
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 3, (2, 1000)).tolist()
    shuffled = evaluation_of(labels, predictions, [0.34] * 1000)
    assert "better-than-guessing" in failed(judged(shuffled, min_accuracy=0.0))


def test_the_majority_class_baseline_is_refused():
    baseline = evaluation_of([0] * 1000 + [1] * 2, [0] * 1002, [0.998] * 1002, ("common", "rare"))
    assert failed(judged(baseline)) == ["better-than-guessing"]


def test_two_images_are_too_few_to_be_better_than_guessing():
    verdict = judged(evaluation_of([0, 1], [0, 1], [1.0, 1.0], ("cat", "dog")))
    assert failed(verdict) == ["better-than-guessing"]
    assert verdict.reason == (
        "accuracy 100.0 % (34.2 to 100.0 %) is not significantly above the majority-class baseline of 50.0 %"
    )


def test_a_model_better_than_guessing_states_the_lower_bound_of_its_accuracy():
    assert judged(evaluation_with(range(50))).results[0].sentence == (
        "accuracy is at least 93.5 % (95 % confidence); the majority-class baseline is 33.4 %"
    )


def test_a_minimum_within_the_interval_is_undecided():
    verdict = judged(evaluation_with(range(95)), min_accuracy=0.9)
    assert verdict.accepted
    assert undecided(verdict) == ["min-accuracy"]
    assert "accuracy 90.50 % (88.5 to 92.2 %) meets the minimum of 90 %: not enough evidence" in verdict.reason


def test_what_an_old_evaluation_did_not_measure_is_undecided():
    old = replace(evaluation_with(range(50)), robustness=None, duplicates=None, machine="")
    verdict = judged(old, old, ratio=None)
    assert verdict.accepted
    assert undecided(verdict) == ["min-robustness", "max-duplicates", "max-robustness-drop", "max-latency-ratio"]


@pytest.mark.parametrize(
    ("candidate", "rules"),
    [
        (
            evaluation_with(range(200)),
            ["max-accuracy-drop", "not-worse-than-champion", "max-recall-drop", "max-robustness-drop"],
        ),
        (evaluation_with(range(58), corrupted=dict.fromkeys(CORRUPTIONS, range(50))), ["not-worse-than-champion"]),
        (evaluation_with(range(50), corrupted={"noise": range(200)}), ["max-robustness-drop"]),
        (evaluation_with(range(50), confidence=0.85), ["calibration-not-worse"]),
        (evaluation_with(range(50), confidence=1.0), ["calibration-not-worse"]),
    ],
    ids=["worse", "a little worse", "worse under noise", "underconfident", "overconfident"],
)
def test_each_comparison_fails_alone(candidate, rules):
    assert failed(judged(candidate, CHAMPION)) == rules


def test_a_class_with_a_lower_recall_is_named_even_if_the_accuracy_is_equal():
    champion = evaluation_with(range(60))
    candidate = evaluation_with(range(0, 180, 3), corrupted=dict.fromkeys(CORRUPTIONS, range(60)))
    verdict = judged(candidate, champion)
    assert candidate.accuracy == champion.accuracy
    assert failed(verdict) == ["max-recall-drop"]
    assert "recall of class 'cat' dropped significantly by more than 5 points" in verdict.reason


def test_a_corruption_with_a_lower_accuracy_is_named():
    candidate = evaluation_with(range(50), corrupted={"noise": range(200)})
    verdict = judged(candidate, CHAMPION)
    assert verdict.reason.startswith(
        "accuracy under 'noise' dropped significantly by more than 5 points (most significant: 'noise', 80.0 % against "
        "95.0 %, -"
    )


def test_the_class_and_corruption_closest_to_the_margin_are_named_if_none_dropped():
    sentences = [result.sentence for result in judged(CHAMPION, CHAMPION).results]
    recall, robustness = (
        next(sentence for sentence in sentences if sentence.startswith(start))
        for start in ("no class's recall", "no accuracy under corruption")
    )
    assert "dropped significantly by more than 5 points (closest: 'cat', 94.9 % against 94.9 %, " in recall
    assert "dropped significantly by more than 5 points (closest: 'blur', 95.0 % against 95.0 %, " in robustness


def test_the_maximum_drop_of_a_class_or_corruption_is_a_threshold():
    champion = evaluation_with(range(50))
    noisy = evaluation_with(range(50), corrupted={"noise": range(90)})
    assert judged(noisy, champion).accepted
    assert failed(judged(noisy, champion, max_robustness_drop=0.0)) == ["max-robustness-drop"]
    fewer_cats = evaluation_with(range(0, 93, 3), corrupted=dict.fromkeys(CORRUPTIONS, range(50)))
    assert judged(fewer_cats, champion).accepted
    assert failed(judged(fewer_cats, champion, max_recall_drop=0.0)) == ["max-recall-drop"]


def test_robustness_is_compared_on_the_images_that_both_have():
    champion, candidate = (evaluation_with(range(50)), evaluation_with(range(50), corrupted={"noise": range(200)}))
    fewer = Robustness(
        candidate.robustness.rows[:500],
        {name: classes[:500] for name, classes in candidate.robustness.predictions.items()},
    )
    assert failed(judged(replace(candidate, robustness=fewer), champion)) == ["max-robustness-drop"]


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [
        (Estimate(4.0, 3.8, 4.2), RuleOutcome.FAIL),
        (Estimate(3.1, 2.9, 3.3), RuleOutcome.UNDECIDED),
        (Estimate(1.5, 1.4, 1.6), RuleOutcome.PASS),
    ],
)
def test_the_interval_of_the_latency_ratio_decides(ratio, outcome):
    model = evaluation_with(range(50))
    assert "max-latency-ratio" in rules(judged(model, model, ratio), outcome)


def test_latencies_measured_apart_are_compared_only_on_machines_of_the_same_kind():
    champion = replace(evaluation_with(range(50)), machine="fast, 2 CPUs")
    slow = replace(champion, latency_p50=0.009, latency_p95=0.01)
    assert failed(judged(slow, champion, ratio=None)) == ["max-latency-ratio"]
    elsewhere = judged(replace(slow, machine="old, 1 CPUs"), champion, ratio=None)
    assert (
        "latency was measured on old, 1 CPUs, and the champion's on fast, 2 CPUs: not enough evidence"
        in elsewhere.reason
    )


def test_the_reason_states_accuracies_and_differing_images():
    verdict = judged(evaluation_with(range(100)), evaluation_with(range(50)))
    assert "accuracy 90.00 % against the champion's 95.00 % (-6.70 to -3.47 points)" in verdict.reason
    assert "the maximum drop is 0.5 points" in verdict.reason
    assert "compared with the champion, 50 of 1,000 test images are newly wrong and 0 newly correct" in verdict.reason


def test_a_small_but_significant_loss_fails_the_paired_test():
    candidate = evaluation_with(range(104), 10_000, corrupted=dict.fromkeys(CORRUPTIONS, range(90)))
    assert failed(judged(candidate, evaluation_with(range(90), 10_000))) == ["not-worse-than-champion"]


def test_a_better_and_an_equal_model_are_accepted():
    champion = evaluation_with(range(100))
    assert judged(evaluation_with(range(50)), champion).accepted
    assert judged(champion, champion).accepted


def test_an_insignificant_loss_is_accepted_as_undecided():
    verdict = judged(evaluation_with(range(100, 153)), evaluation_with(range(50, 100)))
    assert verdict.accepted
    assert {"max-accuracy-drop", "not-worse-than-champion"} <= set(undecided(verdict))
    assert "the maximum drop is 0.5 points: not enough evidence" in verdict.reason


def test_an_insignificant_gain_is_undecided():
    lucky, equal = evaluation_with(range(100, 140)), evaluation_with(range(50, 100))
    verdict = judged(lucky, equal)
    assert lucky.accuracy > equal.accuracy
    assert "not-worse-than-champion" in undecided(verdict)
    assert re.search(
        r"40 of 1,000 test images are newly wrong and 50 newly correct \(-\d\.\d\d to \+\d\.\d\d points\): "
        "not enough evidence",
        verdict.reason,
    )


def test_the_reason_says_why_there_is_no_comparison():
    comparable = RuleResult("champion", RuleOutcome.UNDECIDED, "version 3, the champion, has other classes")
    verdict = judge(evaluation_with(range(50)), None, THRESHOLDS, comparable=comparable)
    assert verdict.accepted
    assert "version 3, the champion, has other classes: not enough evidence" in verdict.reason


def test_every_result_has_its_numbers():
    verdict = judged(evaluation_with(range(60)), evaluation_with(range(50)))
    for result in verdict.results:
        assert result.measured is not None, result
        assert result.threshold is not None, result
        if result.rule != "max-duplicates":  # a count of all images has no interval
            assert result.low <= result.measured <= result.high, result


def judged_at_random(random, images, rates, shared):
    """A candidate against a champion with the given error rates; a fraction `shared` of the images is hard for both."""
    hard = random.random((1 + len(CORRUPTIONS), images))
    pair = []
    for rate in rates:
        own = random.random((1 + len(CORRUPTIONS), images))
        mixed = np.where(random.random((1 + len(CORRUPTIONS), images)) < shared, hard, own)
        rows = [np.flatnonzero(values < rate) for values in mixed]
        pair.append(evaluation_with(rows[0], images, corrupted=dict(zip(CORRUPTIONS, rows[1:], strict=True))))
    ratio = float(np.exp(random.normal(0, 0.05)))
    return judged(*pair, ratio=Estimate(ratio, 0.95 * ratio, 1.05 * ratio))


@pytest.mark.parametrize("shared", [0.0, 0.7])
@pytest.mark.parametrize("images", [200, 1000])
def test_equal_models_are_refused_at_most_at_the_stated_rate(images, shared):
    random = np.random.default_rng(0)
    verdicts = [judged_at_random(random, images, (0.1, 0.1), shared) for _ in range(100)]
    assert sum(not verdict.accepted for verdict in verdicts) <= 100 * FALSE_REFUSALS
    significantly_better = ["not-worse-than-champion" in rules(verdict, RuleOutcome.PASS) for verdict in verdicts]
    assert sum(significantly_better) <= 100 * FALSE_REFUSALS


def test_a_loss_of_two_points_is_significant_with_10000_images():
    random = np.random.default_rng(0)
    assert not any(judged_at_random(random, 10_000, (0.12, 0.10), 0.0).accepted for _ in range(10))


CLASSES = tuple(COLORS)
CANDIDATE = evaluation_of([0, 1], [0, 1], classes=CLASSES)
RECORDED = replace(CANDIDATE, package_digest="champion")


@pytest.mark.parametrize("packaged", [CLASSES, None])
def test_a_recorded_evaluation_of_the_same_images_is_used_with_or_without_files(packaged):
    found = comparability(3, CANDIDATE, RECORDED, packaged)
    assert found.recorded == RECORDED
    assert not found.needs_evaluation


@pytest.mark.parametrize("changed", [{"data_digest": "new"}, {"test_fraction": 0.3}])
def test_other_test_images_require_a_new_evaluation(changed):
    found = comparability(3, replace(CANDIDATE, **changed), RECORDED, CLASSES)
    assert found.needs_evaluation
    assert found.recorded is None


def test_a_missing_measurement_requires_a_new_evaluation_if_the_files_exist():
    old = replace(RECORDED, robustness=None)
    assert comparability(3, CANDIDATE, old, CLASSES).needs_evaluation
    without_files = comparability(3, CANDIDATE, old, None)
    assert without_files.recorded == old
    assert not without_files.needs_evaluation


def test_a_lost_evaluation_requires_a_new_one():
    found = comparability(3, CANDIDATE, None, CLASSES)
    assert found.needs_evaluation
    assert found.recorded is None


@pytest.mark.parametrize(
    ("candidate", "recorded", "packaged", "reason"),
    [
        (
            replace(CANDIDATE, data_digest="new"),
            RECORDED,
            None,
            "version 3, the champion, was evaluated on other data, and its files are missing in the registry",
        ),
        (CANDIDATE, None, None, "version 3, the champion, has neither an evaluation nor files in the registry"),
        (
            replace(CANDIDATE, classes=("cat", "dog")),
            RECORDED,
            None,
            r"version 3, the champion, has other classes \(red, green, blue, white\) than the candidate "
            r"\(cat, dog\)",
        ),
        (
            replace(CANDIDATE, classes=("cat", "dog")),
            None,
            CLASSES,
            r"version 3, the champion, has other classes \(red, .*\) than the candidate \(cat, dog\)",
        ),
    ],
    ids=["other data", "nothing recorded", "other classes", "other classes in the package"],
)
def test_without_a_comparison_only_the_absolute_checks_apply(candidate, recorded, packaged, reason):
    found = comparability(3, candidate, recorded, packaged)
    assert found.recorded is None
    assert not found.needs_evaluation
    assert found.result.outcome is RuleOutcome.UNDECIDED
    assert re.fullmatch(f"{reason}, so only the absolute checks apply", found.result.reason)
