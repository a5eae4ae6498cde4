"""The evaluation of a package: what was measured on the test part, and the metrics that follow from it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from posixpath import normpath
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classifier.evaluation.calibration import (
    Abstention,
    calibration_deviations,
    calibration_error,
    reliability_bins,
)
from image_classifier.evaluation.duplicates import Duplicates
from image_classifier.evaluation.intervals import wilson_interval
from image_classifier.evaluation.label_errors import LabelErrors, Suspect
from image_classifier.evaluation.training_data import DuplicatePair, Outlier, TrainingData


@dataclass(frozen=True)
class Robustness:
    """Predictions for corrupted test images, image by image."""

    rows: tuple[int, ...]
    """Rows of the test part: the same for every model, or a prefix of the same."""
    predictions: Mapping[str, tuple[int, ...]]
    """By the corruption's name, which includes its strength: the predicted class of each of `rows`."""


@dataclass(frozen=True)
class Slice:
    """Test images that have a property in common."""

    kind: str
    """The property: the shorter side of the stored image, or its format."""
    name: str
    """Its value."""
    images: int
    right: int
    """Number of correct predictions."""

    @property
    def accuracy(self) -> float:
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy."""
        return wilson_interval(self.right, self.images)


@dataclass(frozen=True)
class ClassMetrics:
    """Recall and precision of one class, with 95 % confidence intervals."""

    name: str
    images: int
    """Number of test images of the class."""
    predicted: int
    """Number of test images for which the class was predicted."""
    correct: int

    @property
    def recall(self) -> float | None:
        """None if there is no test image of the class."""
        return self.correct / self.images if self.images else None

    @property
    def recall_interval(self) -> tuple[float, float]:
        return wilson_interval(self.correct, self.images)

    @property
    def precision(self) -> float | None:
        """None if the class was never predicted."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def precision_interval(self) -> tuple[float, float]:
        return wilson_interval(self.correct, self.predicted)


@dataclass(frozen=True)
class Evaluation:
    """What was measured, with the prediction for every test image, so that two models can be compared pairwise.

    The field names, also of the dataclasses in it, are those of the stored JSON.
    """

    package_digest: str
    data_digest: str
    test_fraction: float
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    predictions: tuple[int, ...]
    confidences: tuple[float, ...]
    """The probability of each predicted class."""
    log_loss: float
    latency_p50: float
    """Median latency of a single image in seconds, without decoding."""
    latency_p95: float
    # The fields below have defaults because the first evaluations were stored without them.
    latency_p95_interval: tuple[float, float] | None = None
    machine: str = ""
    """Processor and CPU count of the machine that measured the latency; "" if unknown."""
    model_bytes: int = 0
    abstention: Abstention | None = None
    """None if it is unknown which images the model was not trained on."""
    robustness: Robustness | None = None
    duplicates: Duplicates | None = None
    label_errors: LabelErrors | None = None
    slices: tuple[Slice, ...] = ()
    brier_scores: tuple[float, ...] = ()
    """Brier score of each test image: the squared distance between its probabilities and its label, from 0 to 2."""
    hashes: tuple[str, ...] = ()
    """First 64 bits of the SHA-256 of each test image's content, in hexadecimal."""
    training_data: TrainingData | None = None
    """None if the model has no embedding, as it is not on a backbone."""

    @property
    def images(self) -> int:
        """Number of test images, N."""
        return len(self.labels)

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is correct; bool [N]."""
        return np.equal(self.predictions, self.labels, dtype=np.bool_)

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy."""
        return wilson_interval(int(self.correct.sum()), self.images)

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Confusion matrix: number of images by true class (row) and predicted class (column); int64 [K, K]."""
        matrix = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(matrix, (np.array(self.labels), np.array(self.predictions)), 1)
        return matrix

    @cached_property
    def by_class(self) -> tuple[ClassMetrics, ...]:
        """In the order of the classes."""
        images, predicted = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        return tuple(
            ClassMetrics(name, int(images[index]), int(predicted[index]), int(self.confusion[index, index]))
            for index, name in enumerate(self.classes)
        )

    def of_images(self, chosen: npt.NDArray[np.bool_]) -> "Evaluation":
        """What was measured on the chosen test images only, bool [N]; without data problems and slices."""
        rows = np.flatnonzero(chosen).tolist()
        position = {row: index for index, row in enumerate(rows)}

        def of(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[row] for row in rows) if values else ()

        robustness = self.robustness
        if robustness is not None:
            shared = [index for index, row in enumerate(robustness.rows) if row in position]
            robustness = Robustness(
                tuple(position[robustness.rows[index]] for index in shared),
                {name: tuple(made[index] for index in shared) for name, made in robustness.predictions.items()},
            )
        return replace(
            self,
            labels=of(self.labels),
            predictions=of(self.predictions),
            confidences=of(self.confidences),
            brier_scores=of(self.brier_scores),
            hashes=of(self.hashes),
            robustness=robustness,
            duplicates=None,
            label_errors=None,
            slices=(),
            training_data=None,
        )

    def top_confusions(self, count: int) -> list[tuple[str, str, int]]:
        """True class, predicted class and number of images of the most frequent confusions, at most `count`."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
        pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
        return [
            (self.classes[true], self.classes[predicted], int(mistakes[true, predicted]))
            for true, predicted in pairs
            if mistakes[true, predicted]
        ]

    @property
    def recall(self) -> dict[str, float]:
        """The recall of each class that has a test image."""
        return {metrics.name: metrics.recall for metrics in self.by_class if metrics.recall is not None}

    @property
    def majority_baseline(self) -> float:
        """Accuracy of the majority-class baseline: always predicting the most frequent class."""
        return float(np.bincount(np.array(self.labels)).max() / self.images)

    @cached_property
    def reliability(self) -> list[tuple[int, float, float]]:
        """Number of images, mean confidence and accuracy of each confidence bin that is not empty."""
        return reliability_bins(np.array(self.confidences), self.correct)

    @property
    def calibration_error(self) -> float:
        return calibration_error(np.array(self.confidences), self.correct)

    @property
    def calibration_deviations(self) -> npt.NDArray[np.float64]:
        """Confidence minus 1 (correct) or 0 (wrong) of each image, in the column of its bin; float64 [N, 15]."""
        return calibration_deviations(np.array(self.confidences), self.correct)

    @property
    def coverage(self) -> tuple[int, int] | None:
        """Number of test images at or above the abstention threshold, if any, and of wrong predictions among them."""
        if self.abstention is None or self.abstention.threshold is None:
            return None
        covered = np.array(self.confidences) >= self.abstention.threshold
        return int(covered.sum()), int((covered & ~self.correct).sum())

    def correct_under(self, corruption: str) -> npt.NDArray[np.bool_]:
        """Whether each prediction for the corrupted images is correct; bool [M], in the order of `robustness.rows`."""
        assert self.robustness is not None
        labels = np.array(self.labels)[list(self.robustness.rows)]
        correct: npt.NDArray[np.bool_] = np.equal(self.robustness.predictions[corruption], labels)
        return correct

    @property
    def corruptions(self) -> tuple[str, ...]:
        return tuple(self.robustness.predictions) if self.robustness else ()

    @property
    def accuracy_without_duplicates(self) -> float | None:
        """Accuracy on the test images that have no duplicate in the training part; None if unknown or if all have."""
        if self.duplicates is None:
            return None
        unique = np.ones(self.images, dtype=bool)
        unique[list(self.duplicates.rows)] = False
        return float(self.correct[unique].mean()) if unique.any() else None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that are logged to MLflow, by name."""
        low, high = self.accuracy_interval
        recall = self.recall
        return {
            "test_accuracy": self.accuracy,
            "test_accuracy_low": low,
            "test_accuracy_high": high,
            "test_lowest_recall": min(recall.values()),
            "test_calibration_error": self.calibration_error,
            "test_log_loss": self.log_loss,
            "latency_p50_ms": 1000 * self.latency_p50,
            "latency_p95_ms": 1000 * self.latency_p95,
            "model_bytes": self.model_bytes,
            **self._optional_metrics,
            **{recall_metric(name): value for name, value in recall.items()},
        }

    @property
    def _optional_metrics(self) -> dict[str, float]:
        metrics = {f"robustness/{name}": float(self.correct_under(name).mean()) for name in self.corruptions}
        if self.coverage is not None:
            covered, wrong = self.coverage
            metrics["test_coverage"] = covered / self.images
            metrics["test_error_of_covered"] = wrong / max(covered, 1)
        if self.duplicates is not None:
            metrics["test_duplicates_share"] = self.duplicates.share
        if self.label_errors is not None:
            metrics["label_suspects"] = self.label_errors.count
        if self.training_data is not None:
            metrics["training_duplicates"] = self.training_data.duplicates
            metrics["training_label_suspects"] = self.training_data.label_errors.count
            metrics["training_outliers"] = self.training_data.outlier_count
        return metrics

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Evaluation":
        """Read the JSON of this or another version: missing fields get defaults, unknown ones are ignored."""
        return cls(**{name: _from_json(name, value) for name, value in _known(cls, json.loads(text)).items()})


def recall_metric(class_name: str) -> str:
    """Name of the metric of a class's recall, as MLflow accepts it: "recall/cat"; different for different classes.

    MLflow allows letters, digits, spaces and `/_-.:`, at most 250 characters, and only what is a path without `..` or
    `//`. In any other name each character except letters, digits, spaces, `_` and `-` is replaced by its code point in
    hexadecimal between colons: "recall/Corn_:28:maize:29:". A name that is too long is cut and ends with 16 digits of
    the SHA-256 of the class name.
    """
    metric = f"recall/{class_name}"
    if _ACCEPTED_METRIC.fullmatch(metric) and normpath(metric) == metric and not _ESCAPED.search(metric):
        escaped = metric
    else:
        escaped = "recall/" + re.sub(r"[^\w\- ]", lambda match: f":{ord(match[0]):x}:", class_name)
    if len(escaped) <= _LONGEST_METRIC:
        return escaped
    digest = f":{hashlib.sha256(class_name.encode()).hexdigest()[:16]}:"
    return escaped[: _LONGEST_METRIC - len(digest)] + digest


_LONGEST_METRIC = 250  # characters
_ACCEPTED_METRIC = re.compile(r"[\w.\- :/]+")
_ESCAPED = re.compile(":[0-9a-f]+:")
_ITEM_TYPES: Mapping[str, Any] = {"slices": Slice, "suspects": Suspect, "pairs": DuplicatePair, "outliers": Outlier}
_FIELD_TYPES: Mapping[str, Any] = {
    "abstention": Abstention,
    "robustness": Robustness,
    "duplicates": Duplicates,
    "label_errors": LabelErrors,
    "training_data": TrainingData,
}


def _from_json(name: str, value: Any) -> Any:
    """The value of a field: lists as tuples, objects as the dataclass of that field."""
    if isinstance(value, list):
        kind = _ITEM_TYPES.get(name)
        return tuple(kind(**_known(kind, item)) if kind else _from_json("", item) for item in value)
    if isinstance(value, dict):
        content = {key: _from_json(key, item) for key, item in value.items()}
        return _FIELD_TYPES[name](**_known(_FIELD_TYPES[name], content)) if name in _FIELD_TYPES else content
    return value


def _known(kind: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in content.items() if name in names}
