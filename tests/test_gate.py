from dataclasses import replace

import numpy as np
import pytest

from image_classifier.gate import judge
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
    return [finding.rule for finding in verdict.findings if not finding.passed]


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


def test_a_clearly_worse_model_is_refused_with_the_numbers():
    verdict = judge(evaluation_with(range(100)), evaluation_with(range(50)), SETTINGS)
    assert failed(verdict) == ["max-accuracy-drop", "not-worse-than-champion"]
    assert "accuracy 90.00% against the champion's 95.00%" in verdict.reason
    assert "loses 50 that the champion gets right and gains 0" in verdict.reason


def test_a_small_but_certain_loss_is_refused_by_the_paired_test():
    verdict = judge(evaluation_with(range(104), 10_000), evaluation_with(range(90), 10_000), SETTINGS)
    assert failed(verdict) == ["not-worse-than-champion"]


def test_a_better_and_an_equal_model_are_accepted():
    champion = evaluation_with(range(100))
    assert judge(evaluation_with(range(50)), champion, SETTINGS).accepted
    assert judge(champion, champion, SETTINGS).accepted


def test_a_loss_within_chance_and_margin_is_accepted():
    candidate, champion = evaluation_with(range(100, 153)), evaluation_with(range(50, 100))
    assert judge(candidate, champion, SETTINGS).accepted


def test_equal_models_are_called_worse_by_the_paired_test_no_more_often_than_stated():
    """500 A/A comparisons of models that err independently at the same rate; McNemar's level is 5 %."""
    random = np.random.default_rng(0)
    settings = replace(SETTINGS, max_accuracy_drop=1.0)
    refused = 0
    for _ in range(500):
        errors = [np.flatnonzero(random.random(1000) < 0.1) for _ in range(2)]
        verdict = judge(evaluation_with(errors[0]), evaluation_with(errors[1]), settings)
        refused += not verdict.accepted
    assert refused <= 500 * 0.05 + 3 * (500 * 0.05 * 0.95) ** 0.5
