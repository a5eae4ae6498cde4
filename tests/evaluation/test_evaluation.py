import json
from dataclasses import replace

import numpy as np
import pytest

from image_classifier.evaluation.abstention import Abstention
from image_classifier.evaluation.duplicates import Duplicates
from image_classifier.evaluation.evaluation import Evaluation, Robustness, Slice, wilson_interval
from image_classifier.evaluation.label_errors import LabelErrors, Suspect


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
        latency_p95_interval=(0.0019, 0.0022),
        machine="any, 2 CPUs",
        model_bytes=1000,
        abstention=Abstention(0.01, 0.9, 100),
        robustness=Robustness((0, 1), {"blur": tuple(predictions[:2]), "noise": tuple(predictions[:2])}),
        duplicates=Duplicates(len(labels), 5 * len(labels), (), (), ()),
        label_errors=LabelErrors(
            len(labels), 1, (Suspect("test", 1, "b.png", classes[0], classes[1], 0.9, 0.1),)
        ),
        slices=(Slice("format", "PNG", 2, 1),),
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


def test_an_evaluation_of_an_earlier_or_later_version_of_the_program_can_be_read():
    stored = json.loads(evaluation_of([0, 1], [0, 2]).to_json())
    later = stored | {"invented": [1], "abstention": {**stored["abstention"], "invented": 1}}
    assert Evaluation.from_json(json.dumps(later)) == evaluation_of([0, 1], [0, 2])
    first = (
        "package_digest data_digest test_fraction classes labels predictions confidences log_loss latency_p50 "
        "latency_p95"
    )
    earlier = Evaluation.from_json(json.dumps({name: stored[name] for name in first.split()}))
    assert earlier.accuracy == 0.5
    assert (earlier.robustness, earlier.coverage, earlier.corruptions, earlier.slices) == (None, None, (), ())
    assert earlier.metrics["test_accuracy"] == 0.5


def test_precision_and_recall_of_a_class_have_intervals_and_may_be_unknown():
    cat, dog, emu = evaluation_of([0, 0, 0, 1, 1], [0, 0, 1, 1, 1]).by_class
    assert (cat.precision, cat.recall) == (1.0, pytest.approx(2 / 3))
    assert (dog.precision, dog.recall) == (pytest.approx(2 / 3), 1.0)
    assert cat.recall_interval == wilson_interval(2, 3)
    assert (emu.precision, emu.recall, emu.recall_interval) == (None, None, (0.0, 1.0))


def test_the_most_confused_pairs_come_first():
    evaluation = evaluation_of([0, 0, 1, 1, 1, 2], [1, 0, 2, 2, 1, 2])
    assert evaluation.confused(5) == [("dog", "emu", 2), ("cat", "dog", 1)]
    assert evaluation.confused(1) == [("dog", "emu", 2)]


def test_coverage_counts_the_answers_above_the_threshold():
    evaluation = evaluation_of([0, 0, 0, 0], [0, 0, 1, 1], [0.99, 0.9, 0.95, 0.5])
    assert evaluation.coverage == (3, 1)
    assert evaluation.metrics["test_coverage"] == 0.75
    assert evaluation.metrics["test_error_of_covered"] == pytest.approx(1 / 3)


def test_right_under_corruption_is_by_the_rows_that_were_asked():
    evaluation = replace(
        evaluation_of([0, 1, 2], [0, 1, 2]), robustness=Robustness((2, 0), {"noise": (2, 1)})
    )
    assert evaluation.right_under("noise").tolist() == [True, False]
    assert evaluation.metrics["robustness/noise"] == 0.5


def test_accuracy_without_duplicates_leaves_them_out():
    evaluation = evaluation_of([0, 0, 0, 0], [0, 0, 1, 1])
    leaked = replace(evaluation, duplicates=Duplicates(4, 10, (0,), (1,), (5, 6)))
    assert leaked.duplicates.share == 0.5
    assert leaked.accuracy_without_duplicates == 0.0
    everything = replace(evaluation, duplicates=Duplicates(4, 10, (0, 1, 2, 3), (), (5, 6, 7, 8)))
    assert everything.accuracy_without_duplicates is None
