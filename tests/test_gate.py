from dataclasses import replace

import numpy as np
import pytest

from image_classifier.gate import FALSE_REFUSALS, Outcome, judge
from image_classifier.settings import Settings
from tests.test_evaluation import evaluation_of

SETTINGS = Settings()


def evaluation_with(errors, images=1000, confidence=None, seed=0):
    """Three even classes, of which the images numbered in `errors` are answered wrongly."""
    labels = np.arange(images) % 3
    predictions = labels.copy()
    predictions[errors] = (predictions[errors] + 1) % 3
    accuracy = 1 - len(errors) / images
    confidences = np.full(images, accuracy if confidence is None else confidence)
    return evaluation_of(labels.tolist(), predictions.tolist(), confidences.tolist())


def failed(verdict):
    return [finding.rule for finding in verdict.findings if finding.outcome is Outcome.FAIL]


def undecided(verdict):
    return [finding.rule for finding in verdict.findings if finding.outcome is Outcome.UNDECIDED]


def test_a_good_first_model_is_accepted_on_the_floors_alone():
    verdict = judge(evaluation_with(range(50)), None, SETTINGS)
    assert verdict.accepted
    assert "no champion" in verdict.reason


@pytest.mark.parametrize(
    ("candidate", "settings", "rules"),
    [
        (evaluation_with(range(600)), {}, ["min-accuracy"]),
        (evaluation_with(range(660)), {"min_accuracy": 0.1}, ["better-than-guessing"]),
        (evaluation_with(range(0, 900, 3)), {"min_recall": 0.5}, ["min-recall"]),
        (evaluation_with(range(300), confidence=0.99), {}, ["max-calibration-error"]),
        (replace(evaluation_with(range(50)), latency_p95=0.3), {}, ["max-latency"]),
    ],
    ids=["inaccurate", "guessing", "a class forgotten", "overconfident", "slow"],
)
def test_each_floor_refuses_its_own_fault(candidate, settings, rules):
    assert failed(judge(candidate, None, replace(SETTINGS, **settings))) == rules


def test_answers_that_have_nothing_to_do_with_the_labels_are_refused():
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 3, (2, 1000)).tolist()
    shuffled = evaluation_of(labels, predictions, [0.34] * 1000)
    assert "better-than-guessing" in failed(judge(shuffled, None, replace(SETTINGS, min_accuracy=0.0)))


def test_a_floor_within_the_interval_is_said_to_be_not_decided():
    verdict = judge(evaluation_with(range(95)), None, replace(SETTINGS, min_accuracy=0.9))
    assert verdict.accepted
    assert undecided(verdict) == ["min-accuracy"]
    assert "reaches the floor of 90%, not enough evidence" in verdict.reason


@pytest.mark.parametrize(
    ("candidate", "rules"),
    [
        (
            evaluation_with(range(100)),
            ["max-accuracy-drop", "not-worse-than-champion", "no-class-worse-than-champion"],
        ),
        (evaluation_with(range(57)), ["not-worse-than-champion"]),
        (evaluation_with(range(50), confidence=0.85), ["calibration-not-worse"]),
        (evaluation_with(range(50), confidence=1.0), ["calibration-not-worse"]),
    ],
)
def test_each_comparison_refuses_its_own_fault(candidate, rules):
    assert failed(judge(candidate, evaluation_with(range(50)), SETTINGS)) == rules


def test_a_class_that_was_forgotten_is_named_though_the_accuracy_is_equal():
    champion = evaluation_with(range(60))
    candidate = evaluation_with(range(0, 180, 3))
    verdict = judge(candidate, champion, SETTINGS)
    assert candidate.accuracy == champion.accuracy
    assert failed(verdict) == ["no-class-worse-than-champion"]
    assert "'cat' is surely recognised less often" in verdict.reason


def test_a_clearly_worse_model_is_refused_with_the_numbers():
    verdict = judge(evaluation_with(range(100)), evaluation_with(range(50)), SETTINGS)
    assert "accuracy 90.00% against the champion's 95.00%" in verdict.reason
    assert "loses 50 that the champion gets right and gains 0" in verdict.reason


def test_a_small_but_certain_loss_is_refused_by_the_paired_test():
    verdict = judge(evaluation_with(range(104), 10_000), evaluation_with(range(90), 10_000), SETTINGS)
    assert failed(verdict) == ["not-worse-than-champion"]


def test_a_better_and_an_equal_model_are_accepted():
    champion = evaluation_with(range(100))
    assert judge(evaluation_with(range(50)), champion, SETTINGS).accepted
    assert judge(champion, champion, SETTINGS).accepted


def test_a_loss_within_chance_is_accepted_and_said_to_be_not_decided():
    verdict = judge(evaluation_with(range(100, 153)), evaluation_with(range(50, 100)), SETTINGS)
    assert verdict.accepted
    assert undecided(verdict) == ["max-accuracy-drop"]
    assert "is allowed), not enough evidence" in verdict.reason


@pytest.mark.parametrize("images", [200, 1000])
def judged(random, images, rates):
    """A candidate against a champion, which err independently of each other, each at its rate."""
    pair = (evaluation_with(np.flatnonzero(random.random(images) < rate), images) for rate in rates)
    return judge(*pair, SETTINGS)


@pytest.mark.parametrize("images", [200, 1000])
def test_equal_models_are_refused_no_more_often_than_stated(images):
    random = np.random.default_rng(0)
    refused = sum(not judged(random, images, (0.1, 0.1)).accepted for _ in range(100))
    assert refused <= 100 * FALSE_REFUSALS


def test_a_loss_of_two_points_is_found_with_enough_images():
    random = np.random.default_rng(0)
    assert not any(judged(random, 10_000, (0.12, 0.10)).accepted for _ in range(10))
