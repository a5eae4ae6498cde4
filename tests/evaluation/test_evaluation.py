import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

from image_classifier.evaluation.calibration import Abstention
from image_classifier.evaluation.duplicates import Duplicates
from image_classifier.evaluation.evaluation import Evaluation, Robustness, Slice, recall_metric
from image_classifier.evaluation.intervals import wilson_interval
from image_classifier.evaluation.label_errors import LabelErrors, Suspect
from image_classifier.evaluation.training_data import DuplicatePair, Outlier, TrainingData


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
        machine="a processor, 2 CPUs",
        model_bytes=1000,
        abstention=Abstention(0.01, 0.9, 100),
        robustness=Robustness((0, 1), {"blur": tuple(predictions[:2]), "noise": tuple(predictions[:2])}),
        duplicates=Duplicates(len(labels), 5 * len(labels), (), (), ()),
        label_errors=LabelErrors(len(labels), 1, (Suspect("test", 1, "b.png", classes[0], classes[1], 0.9, 0.1),)),
        slices=(Slice("format", "PNG", 2, 1),),
        training_data=TrainingData(
            images=10,
            total=12,
            identical=2,
            duplicates=3,
            contradictory=1,
            validation_duplicates=1,
            pairs=(DuplicatePair(0, "a.png", classes[0], 4, "e.png", classes[1]),),
            label_errors=LabelErrors(8, 1, (Suspect("train", 2, "c.png", classes[0], classes[1], 0.9, 0.1),), 0.8),
            outlier_count=1,
            outliers=(Outlier(3, "d.png", classes[1], True, 0.5),),
        ),
    )


def test_accuracy_recall_and_confusion_count_each_class():
    evaluation = evaluation_of([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert evaluation.accuracy == pytest.approx(0.8)
    assert evaluation.recall == {"cat": pytest.approx(2 / 3), "dog": 1.0}
    assert evaluation.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert evaluation.majority_baseline == pytest.approx(0.6)


def test_an_evaluation_equals_itself_after_json():
    evaluation = evaluation_of([0, 1], [0, 2])
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    assert np.array_equal(evaluation.correct, [True, False])


def test_the_names_in_the_stored_json_do_not_change():
    stored = json.loads(evaluation_of([0, 1], [0, 2]).to_json())
    assert " ".join(stored) == (
        "package_digest data_digest test_fraction classes labels predictions confidences log_loss latency_p50 "
        "latency_p95 latency_p95_interval machine model_bytes abstention robustness duplicates label_errors slices "
        "brier_scores hashes training_data"
    )
    assert list(stored["abstention"]) == ["error", "threshold", "images"]
    assert list(stored["robustness"]) == ["rows", "predictions"]
    assert list(stored["duplicates"]) == ["test_images", "train_images", "exact", "near", "originals"]
    assert list(stored["label_errors"]) == ["images", "count", "suspects", "expected_precision"]
    suspect = "part row name label suggested confidence self_confidence"
    assert " ".join(stored["label_errors"]["suspects"][0]) == suspect
    assert list(stored["slices"][0]) == ["kind", "name", "images", "right"]
    training = stored["training_data"]
    assert " ".join(training) == (
        "images total identical duplicates contradictory validation_duplicates pairs label_errors outlier_count "
        "outliers"
    )
    assert " ".join(training["pairs"][0]) == "row name label other_row other_name other_label"
    assert " ".join(training["outliers"][0]) == "row name label is_blank deviations"


def test_an_evaluation_of_some_images_has_their_results_only():
    evaluation = replace(
        evaluation_of([0, 1, 2], [0, 2, 2], [0.9, 0.8, 0.7]), brier_scores=(0.1, 0.2, 0.3), hashes=("a", "b", "c")
    )
    chosen = evaluation.of_images(np.array([False, True, True]))
    assert (chosen.labels, chosen.predictions, chosen.confidences) == ((1, 2), (2, 2), (0.8, 0.7))
    assert (chosen.brier_scores, chosen.hashes) == ((0.2, 0.3), ("b", "c"))
    assert chosen.accuracy == 0.5
    # Robustness was measured on the first two images only.
    assert chosen.robustness == Robustness((0,), {"blur": (2,), "noise": (2,)})
    assert (chosen.duplicates, chosen.label_errors, chosen.training_data, chosen.slices) == (None, None, None, ())


def test_evaluations_of_older_and_newer_versions_can_be_read():
    stored = json.loads(evaluation_of([0, 1], [0, 2]).to_json())
    newer = stored | {"invented": [1], "abstention": {**stored["abstention"], "invented": 1}}
    assert Evaluation.from_json(json.dumps(newer)) == evaluation_of([0, 1], [0, 2])
    required = (
        "package_digest data_digest test_fraction classes labels predictions confidences log_loss latency_p50 "
        "latency_p95"
    )
    older = Evaluation.from_json(json.dumps({name: stored[name] for name in required.split()}))
    assert older.accuracy == 0.5
    assert (older.robustness, older.coverage, older.corruptions, older.slices) == (None, None, (), ())
    assert older.metrics["test_accuracy"] == 0.5
    del stored["label_errors"]["expected_precision"]
    without_precision = Evaluation.from_json(json.dumps(stored)).label_errors
    assert (without_precision.count, without_precision.expected_precision) == (1, None)


def test_a_class_without_images_has_no_recall_and_one_without_predictions_no_precision():
    cat, dog, emu = evaluation_of([0, 0, 0, 1, 1], [0, 0, 1, 1, 1]).by_class
    assert (cat.precision, cat.recall) == (1.0, pytest.approx(2 / 3))
    assert (dog.precision, dog.recall) == (pytest.approx(2 / 3), 1.0)
    assert cat.recall_interval == wilson_interval(2, 3)
    assert (emu.precision, emu.recall, emu.recall_interval) == (None, None, (0.0, 1.0))


def test_the_most_frequent_confusions_come_first():
    evaluation = evaluation_of([0, 0, 1, 1, 1, 2], [1, 0, 2, 2, 1, 2])
    assert evaluation.top_confusions(5) == [("dog", "emu", 2), ("cat", "dog", 1)]
    assert evaluation.top_confusions(1) == [("dog", "emu", 2)]


def test_coverage_counts_predictions_at_or_above_the_threshold():
    evaluation = evaluation_of([0, 0, 0, 0], [0, 0, 1, 1], [0.99, 0.9, 0.95, 0.5])
    assert evaluation.coverage == (3, 1)
    assert evaluation.metrics["test_coverage"] == 0.75
    assert evaluation.metrics["test_error_of_covered"] == pytest.approx(1 / 3)


def test_predictions_under_corruption_are_compared_with_the_labels_of_their_rows():
    evaluation = replace(evaluation_of([0, 1, 2], [0, 1, 2]), robustness=Robustness((2, 0), {"noise": (2, 1)}))
    assert evaluation.correct_under("noise").tolist() == [True, False]
    assert evaluation.metrics["robustness/noise"] == 0.5


def test_accuracy_without_duplicates_excludes_them():
    evaluation = evaluation_of([0, 0, 0, 0], [0, 0, 1, 1])
    leaked = replace(evaluation, duplicates=Duplicates(4, 10, (0,), (1,), (5, 6)))
    assert leaked.duplicates.share == 0.5
    assert leaked.accuracy_without_duplicates == 0.0
    everything = replace(evaluation, duplicates=Duplicates(4, 10, (0, 1, 2, 3), (), (5, 6, 7, 8)))
    assert everything.accuracy_without_duplicates is None


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("cat", "recall/cat"),
        ("a b_c-d.e", "recall/a b_c-d.e"),
        ("a:b", "recall/a:b"),
        ("animals/cat", "recall/animals/cat"),
        ("日本語", "recall/日本語"),
        ("Corn_(maize)", "recall/Corn_:28:maize:29:"),
        ("colt's foot", "recall/colt:27:s foot"),
        ("😀", "recall/:1f600:"),
        ("..", "recall/:2e::2e:"),
        ("a//b", "recall/a:2f::2f:b"),
        (":28:", "recall/:3a:28:3a:"),
    ],
)
def test_a_class_name_is_its_metric_with_other_characters_than_mlflow_accepts_escaped(name, metric):
    assert recall_metric(name) == metric


ODD_NAMES = st.text(st.sampled_from("a:/.28-_ (😀é\u0301日"), min_size=1, max_size=8) | st.text(
    min_size=1, max_size=300
)


@given(ODD_NAMES)
@example("x" * 255)
@example("é" * 127)
@example("😀" * 63)
@example("con")
@example("../../etc")
@example("/")
@example("a/")
def test_mlflow_accepts_the_metric_of_every_class_name(name):
    metric = recall_metric(name)
    _validate_metric_name(metric)
    assert len(metric) <= MAX_ENTITY_KEY_LENGTH


@given(ODD_NAMES, ODD_NAMES)
@example("(", ":28:")
@example(".", ":2e:")
@example("y" * 250 + "a", "y" * 250 + "b")
def test_two_classes_have_different_metrics(one, other):
    assert (recall_metric(one) == recall_metric(other)) is (one == other)


def test_the_recall_of_an_oddly_named_class_is_logged():
    metrics = evaluation_of([0, 0, 1], [0, 1, 1], classes=("Corn_(maize)", "50%", "emu")).metrics
    assert metrics["recall/Corn_:28:maize:29:"] == 0.5
    assert metrics["recall/50:25:"] == 1.0
