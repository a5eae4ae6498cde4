import numpy as np
import pytest

from image_classifier.evaluation.abstention import choose_threshold


def test_the_threshold_gives_the_most_answers_within_the_error():
    confidences = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    right = np.array([True, True, False, True, False])
    assert choose_threshold(confidences, right, 0.25).threshold == 0.6
    assert choose_threshold(confidences, right, 0.0).threshold == 0.8
    assert choose_threshold(confidences, right, 1.0).threshold == 0.5


def test_no_threshold_is_none():
    assert choose_threshold(np.array([0.9, 0.8]), np.array([False, True]), 0.1).threshold is None


def test_images_of_equal_confidence_are_answered_together():
    chosen = choose_threshold(np.array([0.9, 0.9, 0.9]), np.array([True, True, False]), 0.1)
    assert chosen.threshold is None


def test_the_error_of_new_images_is_about_what_was_aimed_at():
    random = np.random.default_rng(0)

    def drawn():
        confidences = random.uniform(0.5, 1.0, 20_000)
        return confidences, random.random(20_000) < confidences

    chosen = choose_threshold(*drawn(), 0.1)
    confidences, right = drawn()
    answered = confidences >= chosen.threshold
    assert (~right[answered]).mean() == pytest.approx(0.1, abs=0.02)
    assert answered.mean() == pytest.approx(0.4, abs=0.05)  # the error of confidences from 0.8 on is 0.1
