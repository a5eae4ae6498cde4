import re
from dataclasses import replace

import numpy as np
import pytest

from image_classifier.evaluation.duplicates import Duplicates
from image_classifier.evaluation.evaluation import Robustness
from image_classifier.evaluation.intervals import Estimate
from image_classifier.gate.champion_checks import FALSE_REFUSALS
from image_classifier.gate.rules import RuleOutcome, RuleResult, Thresholds
from image_classifier.gate.verdict import Opponent, comparability, judge
from image_classifier.registry.decision import Decision
from image_classifier.settings import Settings, pick
from tests.conftest import COLORS
from tests.evaluation.test_evaluation import evaluation_of
from tests.gate.simulated_models import acceptance, loss_after_small_losses

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


def judged(candidate, champion=None, ratio=EQUALLY_FAST, best=None, **thresholds):
    opponent = Opponent("version 1, the champion", champion, latency_ratio=ratio) if champion else None
    anchor = Opponent("version 0, the best version so far", best) if best else None
    return judge(candidate, opponent, replace(THRESHOLDS, **thresholds), best=anchor)


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
    assert failed(judged(baseline, min_recall=0.0)) == ["better-than-guessing"]


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


def test_the_measured_value_decides_an_absolute_check_and_its_interval_is_stated():
    verdict = judged(evaluation_with(range(95)), min_accuracy=0.9)
    assert verdict.accepted
    assert "accuracy 90.50 % (88.5 to 92.2 %) meets the minimum of 90 %" in verdict.reason


def test_what_an_old_evaluation_did_not_measure_says_nothing():
    old = replace(evaluation_with(range(50)), robustness=None, duplicates=None, machine="")
    verdict = judged(old, old, ratio=None)
    assert verdict.accepted
    assert rules(verdict, RuleOutcome.NOT_MEASURED) == [
        "min-robustness",
        "max-duplicates",
        "max-robustness-drop",
        "max-latency-ratio",
    ]


def by_recall(*counts):
    """Classes with (correct, images) each; every wrong image is taken for the first class, or the last."""
    labels, predictions = [], []
    for index, (correct, images) in enumerate(counts):
        labels += [index] * images
        predictions += [index] * correct + [0 if index else len(counts) - 1] * (images - correct)
    names = tuple(f"class {index}" for index in range(len(counts)))
    evaluation = evaluation_of(labels, predictions, [0.9] * len(labels), names)
    return replace(evaluation, robustness=None)


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [
        ([(9, 10)] * 9 + [(0, 10)], RuleOutcome.FAIL),
        ([(6, 10)] * 9 + [(0, 10)], RuleOutcome.FAIL),
        ([(9, 10)] * 9 + [(1, 10)], RuleOutcome.PASS),
        ([(3, 10)] * 9 + [(0, 10)], RuleOutcome.UNDECIDED),
        ([(9, 10)] * 9 + [(0, 2)], RuleOutcome.PASS),
        ([(45, 50), (10, 50)], RuleOutcome.FAIL),
        ([(1, 2)] * 90 + [(0, 2)] * 10, RuleOutcome.PASS),
        ([(90, 100)] * 9 + [(4, 100)], RuleOutcome.FAIL),
        ([(90, 100)] * 9 + [(5, 100)], RuleOutcome.PASS),
    ],
    ids=[
        "0 of 10 of a good model",
        "0 of 10 of a mediocre model",
        "1 of 10",
        "0 of 10 of a weak model",
        "0 of 2",
        "two classes",
        "100 classes of two images",
        "4 of 100",
        "5 of 100",
    ],
)
def test_by_default_a_class_must_be_recognized_if_enough_of_its_images_were_tested(counts, outcome):
    verdict = judged(by_recall(*counts), min_accuracy=0.0, max_calibration_error=1.0)
    assert next(result.outcome for result in verdict.results if result.rule == "min-recall") is outcome


def test_the_default_minimum_of_the_recall_names_the_class_and_its_images():
    verdict = judged(by_recall(*[(9, 10)] * 8, (0, 10), (0, 10)), max_calibration_error=1.0)
    assert verdict.reason == (
        "recall of class 'class 8' and of 1 other class is below the minimum of 5.0 %, half of what guessing among 10 "
        "classes gives: 0 of 10 test images are correct"
    )


def test_a_minimum_of_zero_asks_for_no_recall():
    assert judged(by_recall(*[(9, 10)] * 9, (0, 10)), min_recall=0.0, max_calibration_error=1.0).accepted


@pytest.mark.parametrize(
    ("candidate", "rules"),
    [
        (
            evaluation_with(range(200)),
            ["not-worse-than-champion", "max-accuracy-drop", "max-recall-drop", "max-robustness-drop"],
        ),
        (evaluation_with(range(20, 88), corrupted=dict.fromkeys(CORRUPTIONS, range(50))), ["not-worse-than-champion"]),
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
        (Estimate(3.1, 2.9, 3.3), RuleOutcome.PASS),
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
    assert rules(elsewhere, RuleOutcome.NOT_MEASURED) == ["max-latency-ratio"]
    assert elsewhere.results[-1].sentence == (
        "latency was measured on old, 1 CPUs, and the champion's on fast, 2 CPUs: not measured"
    )


def test_the_reason_states_accuracies_and_differing_images():
    verdict = judged(evaluation_with(range(100)), evaluation_with(range(50)))
    assert verdict.reason.startswith(
        "accuracy 90.00 % against 95.00 % of the champion, 50 of 1,000 test images newly wrong and 0 newly correct; "
        "this shows a difference of -5.00 points (-6.35 to -3.65 points), so it is at most 0.5 points worse with a "
        "probability of 0 %; the policy not-worse requires 50 %; accuracy 90.00 % against the champion's 95.00 % (-"
    )
    assert "dropped significantly by more than 0.5 points" in verdict.reason


def test_a_better_and_an_equal_model_are_accepted():
    champion = evaluation_with(range(100))
    assert judged(evaluation_with(range(50)), champion).accepted
    assert judged(champion, champion).accepted


def test_a_loss_that_may_be_chance_holds_the_candidate():
    verdict = judged(evaluation_with(range(100, 158)), evaluation_with(range(50, 100)))
    assert verdict.decision is Decision.HELD
    assert undecided(verdict) == ["not-worse-than-champion"]
    assert verdict.reason.endswith("the policy not-worse requires 50 %: not enough evidence")


def test_a_weak_model_does_not_replace_a_better_one_for_lack_of_images():
    """66.3 % against 77.5 % of 80 images."""
    better, weak = evaluation_with(range(18), 80), evaluation_with(range(10, 37), 80)
    assert (round(better.accuracy, 3), round(weak.accuracy, 4)) == (0.775, 0.6625)
    assert not judged(weak, better, max_calibration_error=1.0).accepted
    assert judged(better, weak, max_calibration_error=1.0).accepted


@pytest.mark.parametrize(
    ("errors", "decisions"),
    [
        (range(40, 80), {"improve": "held", "not-worse": "accepted", "refresh": "accepted"}),
        (range(100, 158), {"improve": "held", "not-worse": "held", "refresh": "accepted"}),
        (range(20, 50), {"improve": "accepted", "not-worse": "accepted", "refresh": "accepted"}),
        (range(100, 200), {"improve": "refused", "not-worse": "refused", "refresh": "refused"}),
        (range(50), {"improve": "held", "not-worse": "accepted", "refresh": "accepted"}),
    ],
    ids=["perhaps better", "perhaps worse", "better", "worse", "the same"],
)
def test_the_policy_says_how_much_evidence_is_required(errors, decisions):
    candidate = evaluation_with(errors, corrupted=dict.fromkeys(CORRUPTIONS, range(50)))
    found = {policy: judged(candidate, CHAMPION, gate_policy=policy).decision for policy in decisions}
    assert found == decisions


def test_the_best_version_so_far_holds_a_candidate_that_only_the_champion_would_allow():
    best, champion = evaluation_with(range(40)), evaluation_with(range(50))
    candidate = evaluation_with(range(54), corrupted=dict.fromkeys(CORRUPTIONS, range(50)))
    assert judged(candidate, champion).accepted
    verdict = judged(candidate, champion, best=best)
    assert failed(verdict) + undecided(verdict) == ["not-worse-than-best"]
    assert "of the best version so far" in verdict.reason


def test_images_that_the_champion_was_trained_on_do_not_count():
    hashes = tuple(f"{value:016x}" for value in range(1000))
    candidate = replace(evaluation_with(range(110), confidence=0.97), hashes=hashes)
    champion = replace(evaluation_with(range(100, 150), confidence=0.95), hashes=hashes)
    known = np.arange(100, dtype=np.uint64)  # which the champion gets right
    assert not judge(candidate, Opponent("version 1, the champion", champion), THRESHOLDS).accepted
    verdict = judge(candidate, Opponent("version 1, the champion", champion, known), THRESHOLDS)
    assert verdict.accepted
    assert (
        "version 1, the champion, is compared on the same test images, without 100 images that it was trained on"
        in (verdict.reason)
    )
    assert "0 of 900 test images newly wrong and 40 newly correct" in verdict.reason


def test_a_champion_that_was_trained_on_all_test_images_holds_the_candidate():
    model = replace(evaluation_with(range(50)), hashes=tuple(f"{value:016x}" for value in range(1000)))
    verdict = judge(model, Opponent("version 1, the champion", model, np.arange(1000, dtype=np.uint64)), THRESHOLDS)
    assert verdict.decision is Decision.HELD
    assert "version 1, the champion, was trained on all 1,000 test images" in verdict.reason


def test_the_reason_says_why_there_is_no_comparison():
    comparable = RuleResult("champion", RuleOutcome.NOT_MEASURED, "version 3, the champion, has other classes")
    verdict = judge(evaluation_with(range(50)), None, THRESHOLDS, comparable=comparable)
    assert verdict.accepted
    assert "version 3, the champion, has other classes: not measured" in verdict.reason


def test_every_result_has_its_numbers():
    verdict = judged(evaluation_with(range(60)), evaluation_with(range(50)))
    for result in verdict.results:
        if result.rule == "champion":
            continue
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
def test_the_guards_refuse_equal_models_at_most_at_the_stated_rate(images, shared):
    random = np.random.default_rng(0)
    verdicts = [judged_at_random(random, images, (0.1, 0.1), shared) for _ in range(100)]
    refused = [set(failed(verdict)) - {"not-worse-than-champion"} for verdict in verdicts]
    assert sum(map(bool, refused)) <= 100 * FALSE_REFUSALS


@pytest.mark.parametrize(
    ("images", "difference", "lowest", "highest"),
    [
        (360, -0.05, 0.0, 0.02),
        (360, -0.02, 0.0, 0.25),
        (1_000, -0.02, 0.0, 0.05),
        (360, 0.0, 0.6, 0.9),
        (10_000, 0.0, 0.9, 1.0),
        (360, 0.02, 0.9, 1.0),
    ],
)
@pytest.mark.parametrize("disagreement", [0.02, 0.05, 0.08])
def test_the_default_policy_accepts_at_the_stated_rates(images, difference, lowest, highest, disagreement):
    """As docs/gate.md states them; `python bench/gate.py simulate` measures all of them."""
    runs = 100 if images == 10_000 else 400
    rate = acceptance(THRESHOLDS, images, 0.95, difference, disagreement, runs)
    deviation = (max(rate * (1 - rate), 0.01) / runs) ** 0.5
    assert lowest - 2 * deviation <= rate <= highest + 2 * deviation


@pytest.mark.parametrize("disagreement", [0.02, 0.05, 0.08])
def test_ten_losses_of_a_point_and_a_half_together_cost_less_than_two(disagreement):
    assert loss_after_small_losses(THRESHOLDS, 360, 0.97, 0.015, 10, disagreement, runs=100) <= 0.02


CLASSES = tuple(COLORS)
CANDIDATE = replace(evaluation_of([0, 1], [0, 1], classes=CLASSES), brier_scores=(0.1, 0.1))
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


@pytest.mark.parametrize("missing", [{"robustness": None}, {"brier_scores": ()}])
def test_a_missing_measurement_requires_a_new_evaluation_if_the_files_exist(missing):
    old = replace(RECORDED, **missing)
    assert comparability(3, CANDIDATE, old, CLASSES).needs_evaluation
    assert comparability(3, replace(CANDIDATE, **missing), old, CLASSES).recorded == old
    without_files = comparability(3, CANDIDATE, old, None)
    assert without_files.recorded == old
    assert not without_files.needs_evaluation


def test_a_recorded_evaluation_of_the_same_test_images_is_used_although_the_training_images_changed():
    hashes = ("00", "01")
    recorded, candidate = replace(RECORDED, hashes=hashes), replace(CANDIDATE, hashes=hashes, data_digest="new")
    assert comparability(3, candidate, recorded, CLASSES).recorded == recorded
    assert comparability(3, replace(candidate, hashes=("00", "02")), recorded, CLASSES).needs_evaluation


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
    assert found.result.outcome is RuleOutcome.NOT_MEASURED
    assert re.fullmatch(f"{reason}, so only the absolute checks apply", found.result.reason)
