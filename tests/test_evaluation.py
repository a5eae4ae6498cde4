import numpy as np
import pytest

from image_classifier.evaluation import Evaluation, wilson_interval


def evaluation_of(labels, predictions, confidences=None, classes=("cat", "dog", "emu")) -> Evaluation:
    return Evaluation(
        package_digest="p",
        data_digest="d",
        test_fraction=0.2,
        classes=classes,
        labels=tuple(labels),
        predictions=tuple(predictions),
        confidences=tuple(confidences if confidences is not None else [0.9] * len(labels)),
        log_loss=0.1,
        latency_p50=0.001,
        latency_p95=0.002,
    )


def test_accuracy_recall_and_confusion_count_each_class():
    evaluation = evaluation_of([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert evaluation.accuracy == pytest.approx(0.8)
    assert evaluation.recall == {"cat": pytest.approx(2 / 3), "dog": 1.0}
    assert evaluation.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert evaluation.largest_class_share == pytest.approx(0.6)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    certain_but_half_right = evaluation_of([0] * 10, [0] * 5 + [1] * 5, [1.0] * 10)
    assert certain_but_half_right.calibration_error == pytest.approx(0.5)
    honest = evaluation_of([0] * 10, [0] * 9 + [1], [0.9] * 10)
    assert honest.calibration_error == pytest.approx(0.0, abs=1e-9)


def test_the_calibration_error_weighs_bins_by_their_images():
    evaluation = evaluation_of([0] * 4, [0, 0, 0, 1], [0.5, 1.0, 1.0, 1.0])
    assert evaluation.calibration_error == pytest.approx(0.25 * 0.5 + 0.75 * (1 - 2 / 3))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Reference values: R's prop.test(..., correct = FALSE).
    [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],
)
def test_the_interval_is_wilsons(successes, trials, low, high):
    assert wilson_interval(successes, trials) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_an_evaluation_survives_json():
    evaluation = evaluation_of([0, 1], [0, 2])
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    assert np.array_equal(evaluation.right, [True, False])
