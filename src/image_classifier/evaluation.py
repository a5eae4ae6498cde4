"""How good a package is on the untouched test part, measured as it will be served."""

import json
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classifier.datasets.dataset import Dataset, Part
from image_classifier.errors import DataError
from image_classifier.package import Model, Probabilities

CALIBRATION_BINS = 15
_TIMED_CALLS = 200


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

    @property
    def recall(self) -> dict[str, float]:
        """The share of each class's images that was recognised; classes without a test image are left out."""
        counts = self.confusion.sum(axis=1)
        return {
            name: float(self.confusion[index, index] / counts[index])
            for index, name in enumerate(self.classes)
            if counts[index]
        }

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
            **{f"recall/{name}": value for name, value in recall.items()},
        }

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Evaluation":
        content: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        return cls(**values)


def evaluate(model: Model, dataset: Dataset, *, test_fraction: float) -> tuple[Evaluation, Probabilities]:
    """Evaluate a loaded package on the test part; also gives its probabilities, float32 [N, K].

    Raises DataError where the data has other classes than the package, in another order, or another size.
    """
    if dataset.classes != model.classes:
        raise DataError(
            f"the model knows the classes {_shortened(model.classes)}, but the data has "
            f"{_shortened(dataset.classes)}: only data of the same classes can judge it"
        )
    if dataset.image_size != model.package.image_size:
        raise DataError(
            f"the model takes images of {model.package.image_size} pixels, but the data was prepared at "
            f"{dataset.image_size}; give --image-size {model.package.image_size}"
        )
    test = dataset.test
    if len(test.labels) == 0:
        raise DataError(f"{dataset.source} has no test image; raise --test-fraction or add a test part")
    probabilities = model.probabilities(np.asarray(test.images))
    predictions = probabilities.argmax(axis=1)
    rows = np.arange(len(predictions))
    true_class = probabilities[rows, test.labels].astype(np.float64)
    p50, p95 = _latency(model, test)
    evaluation = Evaluation(
        package_digest=model.package.digest,
        data_digest=dataset.digest,
        test_fraction=test_fraction,
        classes=dataset.classes,
        labels=tuple(test.labels.tolist()),
        predictions=tuple(predictions.tolist()),
        confidences=tuple(round(float(value), 6) for value in probabilities[rows, predictions]),
        log_loss=float(-np.log(np.maximum(true_class, 1e-12)).mean()),
        latency_p50=p50,
        latency_p95=p95,
    )
    return evaluation, probabilities


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927), which keeps within 0..1 where the normal one does not."""
    z = 1.959964
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * ((share * (1 - share) + z * z / (4 * trials)) / trials) ** 0.5 / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def _latency(model: Model, test: Part) -> tuple[float, float]:
    """Median and 95th percentile of the seconds for one image, after warm-up."""
    seconds = []
    for call in range(_TIMED_CALLS + 10):
        index = call % len(test.labels)
        image = np.asarray(test.images[index : index + 1])
        started = time.perf_counter()
        model.probabilities(image)
        seconds.append(time.perf_counter() - started)
    p50, p95 = np.quantile(seconds[10:], [0.5, 0.95])
    return float(p50), float(p95)


def _shortened(names: tuple[str, ...], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" … ({len(names)})" if len(names) > most else "")
