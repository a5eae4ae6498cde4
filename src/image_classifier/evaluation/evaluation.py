"""What was measured of a package on the untouched test part, and the figures that follow from it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classifier.evaluation.abstention import Abstention
from image_classifier.evaluation.duplicates import Duplicates
from image_classifier.evaluation.label_errors import LabelErrors, Suspect

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Robustness:
    """Answers to some of the test images after corruption, image by image."""

    rows: tuple[int, ...]
    """Of the test part; every model is asked for the same, or for the first of the same."""
    predictions: Mapping[str, tuple[int, ...]]
    """By the name of the corruption, which states its strength; an answer for each of `rows`."""


@dataclass(frozen=True)
class Slice:
    """Test images that have something in common."""

    kind: str
    """What they were told apart by: size or format."""
    name: str
    images: int
    right: int

    @property
    def accuracy(self) -> float:
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.right, self.images)


@dataclass(frozen=True)
class ClassFigures:
    """How well one class is told from the others; a figure is None where there is no image to tell it by."""

    name: str
    images: int
    answers: int
    """How often it was answered."""
    right: int

    @property
    def recall(self) -> float | None:
        return self.right / self.images if self.images else None

    @property
    def recall_interval(self) -> tuple[float, float]:
        return wilson_interval(self.right, self.images)

    @property
    def precision(self) -> float | None:
        return self.right / self.answers if self.answers else None

    @property
    def precision_interval(self) -> tuple[float, float]:
        return wilson_interval(self.right, self.answers)


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and each answer, so that two models can be compared image by image."""

    package_digest: str
    data_digest: str
    test_fraction: float
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    predictions: tuple[int, ...]
    confidences: tuple[float, ...]
    """The probability of the predicted class."""
    log_loss: float
    latency_p50: float
    """Seconds for one image, decoding apart."""
    latency_p95: float
    # What follows was not measured by earlier versions of this program.
    latency_p95_interval: tuple[float, float] | None = None
    machine: str = ""
    """The kind of machine that the latency was measured on; "" where it is not known."""
    model_bytes: int = 0
    abstention: Abstention | None = None
    """None: no validation image is known that the model was not trained on."""
    robustness: Robustness | None = None
    duplicates: Duplicates | None = None
    label_errors: LabelErrors | None = None
    slices: tuple[Slice, ...] = ()

    @property
    def images(self) -> int:
        return len(self.labels)

    @cached_property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each answer was right; bool [N]."""
        return np.equal(self.predictions, self.labels, dtype=np.bool_)

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, by Wilson's score method."""
        return wilson_interval(int(self.right.sum()), self.images)

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Number of images by true class (row) and predicted class (column); int64 [K, K]."""
        matrix = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(matrix, (np.array(self.labels), np.array(self.predictions)), 1)
        return matrix

    @cached_property
    def by_class(self) -> tuple[ClassFigures, ...]:
        """The figures of each class, in the order of the classes."""
        images, answers = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        return tuple(
            ClassFigures(name, int(images[index]), int(answers[index]), int(self.confusion[index, index]))
            for index, name in enumerate(self.classes)
        )

    def confused(self, most: int) -> list[tuple[str, str, int]]:
        """The true and the answered class of the commonest mistakes, and how often each was made."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
        return [
            (self.classes[true], self.classes[answered], int(mistakes[true, answered]))
            for true, answered in pairs
            if mistakes[true, answered]
        ]

    @property
    def recall(self) -> dict[str, float]:
        """The share of each class's images that was recognised; classes without a test image are left out."""
        return {figures.name: figures.recall for figures in self.by_class if figures.recall is not None}

    @property
    def largest_class_share(self) -> float:
        """The accuracy of always answering the commonest class."""
        return float(np.bincount(np.array(self.labels)).max() / self.images)

    @cached_property
    def reliability(self) -> list[tuple[int, float, float]]:
        """Images, mean confidence and accuracy of each confidence bin that has any."""
        confidences, bins = np.array(self.confidences), self._confidence_bins
        return [
            (
                int((bins == number).sum()),
                float(confidences[bins == number].mean()),
                float(self.right[bins == number].mean()),
            )
            for number in np.unique(bins)
        ]

    @property
    def calibration_deviations(self) -> npt.NDArray[np.float64]:
        """By image and confidence bin: the confidence, less 1 for a right answer; float64 [N, 15].

        The absolute values of its columns' sums, added up and divided by N, are the calibration error.
        """
        deviations = np.zeros((self.images, CALIBRATION_BINS))
        deviations[np.arange(self.images), self._confidence_bins] = np.array(self.confidences) - self.right
        return deviations

    @property
    def _confidence_bins(self) -> npt.NDArray[np.int64]:
        bins = (np.array(self.confidences) * CALIBRATION_BINS).astype(np.int64)
        return np.minimum(bins, CALIBRATION_BINS - 1)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over 15 equal bins (Guo et al. 2017, arXiv:1706.04599)."""
        return (
            sum(count * abs(confidence - accuracy) for count, confidence, accuracy in self.reliability)
            / self.images
        )

    @property
    def coverage(self) -> tuple[int, int] | None:
        """At the threshold: how many test images are answered, and how many of these wrongly; None: no threshold."""
        if self.abstention is None or self.abstention.threshold is None:
            return None
        answered = np.array(self.confidences) >= self.abstention.threshold
        return int(answered.sum()), int((answered & ~self.right).sum())

    def right_under(self, corruption: str) -> npt.NDArray[np.bool_]:
        """Whether each answer to the corrupted images was right; bool [N], in the order of the robustness' rows."""
        assert self.robustness is not None
        labels = np.array(self.labels)[list(self.robustness.rows)]
        right: npt.NDArray[np.bool_] = np.equal(self.robustness.predictions[corruption], labels)
        return right

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The names of the corruptions that were tried."""
        return tuple(self.robustness.predictions) if self.robustness else ()

    @property
    def accuracy_without_duplicates(self) -> float | None:
        """The accuracy on test images that have no duplicate in the training part; None where it is not known."""
        if self.duplicates is None:
            return None
        kept = np.ones(self.images, dtype=bool)
        kept[list(self.duplicates.rows)] = False
        return float(self.right[kept].mean()) if kept.any() else None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures that are tracked, by name."""
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
            **self._further_metrics,
            **{f"recall/{name}": value for name, value in recall.items()},
        }

    @property
    def _further_metrics(self) -> dict[str, float]:
        metrics = {f"robustness/{name}": float(self.right_under(name).mean()) for name in self.corruptions}
        if self.coverage is not None:
            answered, wrong = self.coverage
            metrics["test_coverage"] = answered / self.images
            metrics["test_error_of_covered"] = wrong / max(answered, 1)
        if self.duplicates is not None:
            metrics["test_duplicates_share"] = self.duplicates.share
        if self.label_errors is not None:
            metrics["label_suspects"] = self.label_errors.count
        return metrics

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Evaluation":
        """Read what `to_json` of this or an earlier version wrote; what was not measured then is missing."""
        content = json.loads(text)
        values = {name: _read_part(name, value) for name, value in _known(cls, content).items()}
        return cls(**values)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927), which keeps within 0..1 where the normal one does not."""
    if trials == 0:
        return 0.0, 1.0
    z = 1.959964
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * ((share * (1 - share) + z * z / (4 * trials)) / trials) ** 0.5 / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


_PARTS: Mapping[str, Any] = {
    "abstention": Abstention,
    "robustness": Robustness,
    "duplicates": Duplicates,
    "label_errors": LabelErrors,
}
_ITEMS: Mapping[str, Any] = {"slices": Slice, "suspects": Suspect}


def _read_part(name: str, value: Any) -> Any:
    """A value as it was before it became JSON: tuples for lists, and the dataclass that a field holds."""
    if isinstance(value, list):
        item = _ITEMS.get(name)
        return tuple(item(**_known(item, each)) if item else _read_part("", each) for each in value)
    if isinstance(value, dict):
        read = {key: _read_part(key, each) for key, each in value.items()}
        return _PARTS[name](**_known(_PARTS[name], read)) if name in _PARTS else read
    return value


def _known(kind: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Without the fields that a later version may have written."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in content.items() if name in names}
