import numpy as np
import pytest

from image_classifier.evaluation.calibration import (
    calibration_deviations,
    calibration_error,
    choose_threshold,
    reliability_bins,
)


def correct(*predictions):
    return np.array(predictions, bool)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    assert calibration_error(np.ones(10), correct(*[1] * 5, *[0] * 5)) == pytest.approx(0.5)
    assert calibration_error(np.full(10, 0.9), correct(*[1] * 9, 0)) == pytest.approx(0.0, abs=1e-9)


def test_the_calibration_error_weights_bins_by_their_images():
    confidences, predictions = np.array([0.5, 1.0, 1.0, 1.0]), correct(1, 1, 1, 0)
    assert calibration_error(confidences, predictions) == pytest.approx(0.25 * 0.5 + 0.75 * (1 - 2 / 3))
    assert [count for count, _, _ in reliability_bins(confidences, predictions)] == [1, 3]


def test_the_deviations_add_up_to_the_calibration_error():
    random = np.random.default_rng(0)
    confidences = random.uniform(0.1, 1.0, 500)
    predictions = random.random(500) < confidences**2
    deviations = calibration_deviations(confidences, predictions)
    assert deviations.shape == (500, 15)
    error = np.abs(deviations.sum(axis=0)).sum() / 500
    assert error == pytest.approx(calibration_error(confidences, predictions))


def test_the_threshold_has_the_highest_coverage_within_the_error_rate():
    confidences = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    predictions = correct(1, 1, 0, 1, 0)
    assert choose_threshold(confidences, predictions, 0.25).threshold == 0.6
    assert choose_threshold(confidences, predictions, 0.0).threshold == 0.8
    assert choose_threshold(confidences, predictions, 1.0).threshold == 0.5


def test_an_unreachable_error_rate_gives_no_threshold():
    assert choose_threshold(np.array([0.9, 0.8]), correct(0, 1), 0.1).threshold is None


def test_images_of_equal_confidence_are_covered_together():
    assert choose_threshold(np.array([0.9, 0.9, 0.9]), correct(1, 1, 0), 0.1).threshold is None


def test_the_error_rate_on_new_images_is_close_to_the_target():
    random = np.random.default_rng(0)

    def sample():
        confidences = random.uniform(0.5, 1.0, 20_000)
        return confidences, random.random(20_000) < confidences

    threshold = choose_threshold(*sample(), 0.1).threshold
    confidences, predictions = sample()
    covered = confidences >= threshold
    assert (~predictions[covered]).mean() == pytest.approx(0.1, abs=0.02)
    assert covered.mean() == pytest.approx(0.4, abs=0.05)  # the mean error rate of confidences above 0.8 is 0.1
