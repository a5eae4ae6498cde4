import re
from dataclasses import replace

import numpy as np
import pytest

from image_classifier.evaluation.duplicates import Duplicates
from image_classifier.evaluation.evaluation import Robustness
from image_classifier.gate.champion_checks import FALSE_REFUSALS
from image_classifier.gate.rule_result import RuleOutcome, RuleResult
from image_classifier.gate.statistics import Difference
from image_classifier.gate.verdict import judge
from image_classifier.settings import Settings
from tests.evaluation.test_evaluation import evaluation_of

SETTINGS = Settings()
CORRUPTIONS = ("blur", "noise")
ALIKE = Difference(1.0, 0.98, 1.02)


def evaluation_with(errors, images=1000, confidence=None, corrupted=None):
    """Three even classes, of which the images numbered in `errors` are answered wrongly.

    `corrupted` has the errors under each corruption; by default they are the same.
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


def judged(candidate, champion=None, ratio=ALIKE, **settings):
    return judge(candidate, champion, replace(SETTINGS, **settings), latency_ratio=ratio)


def rules(verdict, outcome):
    return [finding.rule for finding in verdict.findings if finding.outcome is outcome]


def failed(verdict):
    return rules(verdict, RuleOutcome.FAIL)


def undecided(verdict):
    return rules(verdict, RuleOutcome.UNDECIDED)


def with_duplicates(evaluation, count, exact=0):
    rows = tuple(range(count))
    return replace(
        evaluation,
        duplicates=Duplicates(evaluation.images, 5 * evaluation.images, rows[:exact], rows[exact:], rows),
    )


def test_a_good_first_model_is_accepted_on_the_floors_alone():
    verdict = judged(evaluation_with(range(50)))
    assert verdict.accepted
    assert "no champion" in verdict.reason
    assert undecided(verdict) == []


@pytest.mark.parametrize(
    ("candidate", "settings", "rules"),
    [
        (evaluation_with(range(600)), {}, ["min-accuracy"]),
        (evaluation_with(range(660)), {"min_accuracy": 0.1}, ["better-than-guessing"]),
        (evaluation_with(range(0, 900, 3)), {"min_recall": 0.5}, ["min-recall"]),
        (
            evaluation_with(range(50), corrupted={"noise": range(300)}),
            {"min_robustness": 0.8},
            ["min-robustness"],
        ),
        (evaluation_with(range(300), confidence=0.99), {}, ["max-calibration-error"]),
        (replace(evaluation_with(range(50)), latency_p95=0.3), {}, ["max-latency"]),
        (with_duplicates(evaluation_with(range(50)), 60, exact=20), {}, ["max-duplicates"]),
    ],
    ids=["inaccurate", "guessing", "a class forgotten", "not robust", "overconfident", "slow", "leaked"],
)
def test_each_floor_refuses_its_own_fault(candidate, settings, rules):
    assert failed(judged(candidate, **settings)) == rules


def test_leaked_test_images_are_refused_with_their_number():
    verdict = judged(with_duplicates(evaluation_with(range(50)), 60, exact=20))
    assert (
        "60 of 1,000 test images (6.00%) are duplicates of training images, 20 of them exact"
        in verdict.reason
    )


def test_answers_that_have_nothing_to_do_with_the_labels_are_refused():
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 3, (2, 1000)).tolist()
    shuffled = evaluation_of(labels, predictions, [0.34] * 1000)
    assert "better-than-guessing" in failed(judged(shuffled, min_accuracy=0.0))


def test_always_answering_the_common_class_of_1_to_500_is_refused():
    lazy = evaluation_of([0] * 1000 + [1] * 2, [0] * 1002, [0.998] * 1002, ("common", "rare"))
    assert failed(judged(lazy)) == ["better-than-guessing"]


def test_two_images_are_too_few_to_be_better_than_guessing():
    assert failed(judged(evaluation_of([0, 1], [0, 1], [1.0, 1.0], ("cat", "dog")))) == [
        "better-than-guessing"
    ]


def test_a_floor_within_the_interval_is_said_to_be_not_decided():
    verdict = judged(evaluation_with(range(95)), min_accuracy=0.9)
    assert verdict.accepted
    assert undecided(verdict) == ["min-accuracy"]
    assert "reaches the floor of 90%, not enough evidence" in verdict.reason


def test_what_an_earlier_version_of_the_program_did_not_measure_is_not_decided():
    old = replace(evaluation_with(range(50)), robustness=None, duplicates=None, machine="")
    verdict = judged(old, old, ratio=None)
    assert verdict.accepted
    assert undecided(verdict) == [
        "min-robustness",
        "max-duplicates",
        "max-robustness-drop",
        "max-latency-ratio",
    ]


@pytest.mark.parametrize(
    ("candidate", "rules"),
    [
        (
            evaluation_with(range(200)),
            [
                "max-accuracy-drop",
                "not-worse-than-champion",
                "max-recall-drop",
                "max-robustness-drop",
            ],
        ),
        (
            evaluation_with(range(58), corrupted=dict.fromkeys(CORRUPTIONS, range(50))),
            ["not-worse-than-champion"],
        ),
        (
            evaluation_with(range(50), corrupted={"noise": range(200)}),
            ["max-robustness-drop"],
        ),
        (evaluation_with(range(50), confidence=0.85), ["calibration-not-worse"]),
        (evaluation_with(range(50), confidence=1.0), ["calibration-not-worse"]),
    ],
    ids=["worse", "a little worse", "worse only under noise", "underconfident", "overconfident"],
)
def test_each_comparison_refuses_its_own_fault(candidate, rules):
    assert failed(judged(candidate, evaluation_with(range(50)))) == rules


def test_a_class_that_was_forgotten_is_named_though_the_accuracy_is_equal():
    champion = evaluation_with(range(60))
    candidate = evaluation_with(range(0, 180, 3), corrupted=dict.fromkeys(CORRUPTIONS, range(60)))
    verdict = judged(candidate, champion)
    assert candidate.accuracy == champion.accuracy
    assert failed(verdict) == ["max-recall-drop"]
    assert "'cat' is surely recognised worse than by the champion by more than 5.0%" in verdict.reason


def test_the_corruption_under_which_it_is_worse_is_named():
    candidate = evaluation_with(range(50), corrupted={"noise": range(200)})
    verdict = judged(candidate, evaluation_with(range(50)))
    told = "by more than 5.0% (most of all 'noise', 80.0% against 95.0%"
    assert f"'noise' is surely answered worse than by the champion {told}" in verdict.reason


def test_how_much_worse_a_class_or_corruption_may_be_is_a_setting():
    champion = evaluation_with(range(50))
    noisy = evaluation_with(range(50), corrupted={"noise": range(90)})
    assert judged(noisy, champion).accepted
    assert failed(judged(noisy, champion, max_robustness_drop=0.0)) == ["max-robustness-drop"]
    fewer_cats = evaluation_with(range(0, 93, 3), corrupted=dict.fromkeys(CORRUPTIONS, range(50)))
    assert judged(fewer_cats, champion).accepted
    assert failed(judged(fewer_cats, champion, max_recall_drop=0.0)) == ["max-recall-drop"]


def test_corrupted_images_are_compared_as_far_as_both_were_asked():
    champion, candidate = (
        evaluation_with(range(50)),
        evaluation_with(range(50), corrupted={"noise": range(200)}),
    )
    fewer = Robustness(
        candidate.robustness.rows[:500],
        {name: answers[:500] for name, answers in candidate.robustness.predictions.items()},
    )
    assert failed(judged(replace(candidate, robustness=fewer), champion)) == ["max-robustness-drop"]


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [
        (Difference(4.0, 3.8, 4.2), RuleOutcome.FAIL),
        (Difference(3.1, 2.9, 3.3), RuleOutcome.UNDECIDED),
        (Difference(1.5, 1.4, 1.6), RuleOutcome.PASS),
    ],
)
def test_a_slower_model_is_refused_by_how_much_longer_it_surely_takes(ratio, outcome):
    model = evaluation_with(range(50))
    assert "max-latency-ratio" in rules(judged(model, model, ratio), outcome)


def test_latency_that_was_measured_apart_counts_only_on_machines_of_the_same_kind():
    champion = replace(evaluation_with(range(50)), machine="fast, 2 CPUs")
    slow = replace(champion, latency_p50=0.009, latency_p95=0.01)
    assert failed(judged(slow, champion, ratio=None)) == ["max-latency-ratio"]
    elsewhere = judged(replace(slow, machine="old, 1 CPUs"), champion, ratio=None)
    assert (
        "it was timed on old, 1 CPUs, and the champion on fast, 2 CPUs, not enough evidence"
        in elsewhere.reason
    )


def test_a_clearly_worse_model_is_refused_with_the_numbers():
    verdict = judged(evaluation_with(range(100)), evaluation_with(range(50)))
    assert "accuracy 90.00% against the champion's 95.00%" in verdict.reason
    assert "loses 50 that the champion gets right and gains 0" in verdict.reason


def test_a_small_but_certain_loss_is_refused_by_the_paired_test():
    candidate = evaluation_with(range(104), 10_000, corrupted=dict.fromkeys(CORRUPTIONS, range(90)))
    assert failed(judged(candidate, evaluation_with(range(90), 10_000))) == ["not-worse-than-champion"]


def test_a_better_and_an_equal_model_are_accepted():
    champion = evaluation_with(range(100))
    assert judged(evaluation_with(range(50)), champion).accepted
    assert judged(champion, champion).accepted


def test_a_loss_within_chance_is_accepted_and_said_to_be_not_decided():
    verdict = judged(evaluation_with(range(100, 153)), evaluation_with(range(50, 100)))
    assert verdict.accepted
    assert {"max-accuracy-drop", "not-worse-than-champion"} <= set(undecided(verdict))
    assert "is allowed), not enough evidence" in verdict.reason


def test_a_lucky_seed_is_not_said_to_be_better():
    lucky, equal = evaluation_with(range(100, 140)), evaluation_with(range(50, 100))
    verdict = judged(lucky, equal)
    assert lucky.accuracy > equal.accuracy
    assert "not-worse-than-champion" in undecided(verdict)
    told = r"loses 40 that .* gains 50 \(-[\d.]+% to \+[\d.]+% of all\), not enough evidence"
    assert re.search(told, verdict.reason)


def test_why_there_is_nothing_to_compare_with_is_said():
    alone = RuleResult("champion", RuleOutcome.UNDECIDED, "version 3, the champion, knows other classes")
    verdict = judge(evaluation_with(range(50)), None, SETTINGS, alone=alone)
    assert verdict.accepted
    assert "version 3, the champion, knows other classes, not enough evidence" in verdict.reason


def test_every_rule_that_measures_states_its_figures():
    verdict = judged(evaluation_with(range(60)), evaluation_with(range(50)))
    for finding in verdict.findings:
        assert finding.measured is not None, finding
        assert finding.threshold is not None, finding
        if finding.rule != "max-duplicates":  # counted, all of them
            assert finding.low <= finding.measured <= finding.high, finding


def drawn(random, images, rates, shared):
    """A candidate against a champion, each wrong at its rate; `shared` of the images are hard for both alike."""
    hard = random.random((1 + len(CORRUPTIONS), images))
    pair = []
    for rate in rates:
        own = random.random((1 + len(CORRUPTIONS), images))
        mixed = np.where(random.random((1 + len(CORRUPTIONS), images)) < shared, hard, own)
        rows = [np.flatnonzero(draws < rate) for draws in mixed]
        pair.append(evaluation_with(rows[0], images, corrupted=dict(zip(CORRUPTIONS, rows[1:], strict=True))))
    ratio = float(np.exp(random.normal(0, 0.05)))
    return judged(*pair, ratio=Difference(ratio, 0.95 * ratio, 1.05 * ratio))


@pytest.mark.parametrize("shared", [0.0, 0.7])
@pytest.mark.parametrize("images", [200, 1000])
def test_equal_models_are_refused_no_more_often_than_stated(images, shared):
    random = np.random.default_rng(0)
    verdicts = [drawn(random, images, (0.1, 0.1), shared) for _ in range(100)]
    assert sum(not verdict.accepted for verdict in verdicts) <= 100 * FALSE_REFUSALS
    # And hardly one is said to be better for sure than its equal.
    surely_better = ["not-worse-than-champion" in rules(verdict, RuleOutcome.PASS) for verdict in verdicts]
    assert sum(surely_better) <= 100 * FALSE_REFUSALS


def test_a_loss_of_two_points_is_found_with_enough_images():
    random = np.random.default_rng(0)
    assert not any(drawn(random, 10_000, (0.12, 0.10), 0.0).accepted for _ in range(10))
