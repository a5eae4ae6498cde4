"""Measure a package on the untouched test part, as it will be served."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from image_classifier.datasets import ORIGINAL_FORMATS, Dataset, DatasetPart, split_validation
from image_classifier.errors import DataError
from image_classifier.evaluation.abstention import Abstention, choose_threshold
from image_classifier.evaluation.corruptions import CORRUPTIONS
from image_classifier.evaluation.duplicates import find_duplicates
from image_classifier.evaluation.evaluation import Evaluation, Robustness, Slice
from image_classifier.evaluation.label_errors import MOST_SUSPECTS, LabelErrors, Suspect, suspects_of
from image_classifier.evaluation.latency import machine, measure_latency
from image_classifier.package import Model, Probabilities
from image_classifier.text import shortened

_MOST_CORRUPTED, _LEAST_CORRUPTED, _CORRUPTED_PIXELS = 2_000, 500, 8_000_000
_MOST_VALIDATED = 5_000
_BATCH = 256
_SEED = 0
_DIGITS = 6
"""Confidences are kept and compared with so many."""

Rows = npt.NDArray[np.int64]


def evaluate(
    model: Model, dataset: Dataset, *, test_fraction: float, abstain_error: float
) -> tuple[Evaluation, Probabilities]:
    """Evaluate a loaded package on the test part; also gives its probabilities, float32 [N, K].

    `abstain_error` is the share of wrong answers for which a threshold of confidence is chosen, on validation
    images. Raises DataError where the data has other classes than the package, in another order, or another size.
    """
    _check(model, dataset)
    test = dataset.test
    probabilities = model.probabilities(np.asarray(test.images))
    confidences, predictions = _confidences(probabilities), probabilities.argmax(axis=1)
    true_class = probabilities[np.arange(len(test.labels)), test.labels].astype(np.float64)
    validation = _validation_rows(model, dataset)
    validated = _answers(model, dataset.train, validation)
    latency = measure_latency(model, test.images)
    evaluation = Evaluation(
        package_digest=model.package.digest,
        data_digest=dataset.digest,
        test_fraction=test_fraction,
        classes=dataset.classes,
        labels=tuple(test.labels.tolist()),
        predictions=tuple(predictions.tolist()),
        confidences=tuple(confidences.tolist()),
        log_loss=float(-np.log(np.maximum(true_class, 1e-12)).mean()),
        latency_p50=latency.p50,
        latency_p95=latency.p95,
        latency_p95_interval=(latency.p95_low, latency.p95_high),
        machine=machine(),
        model_bytes=model.package.model_file.stat().st_size,
        abstention=_abstention(validated, dataset.train.labels[validation], abstain_error),
        robustness=_robustness(model, test),
        duplicates=find_duplicates(dataset),
        label_errors=_label_errors(dataset, probabilities, validation, validated),
        slices=_slices(test, predictions == test.labels, dataset.image_size),
    )
    return evaluation, probabilities


def _check(model: Model, dataset: Dataset) -> None:
    if dataset.classes != model.classes:
        raise DataError(
            f"the model knows the classes {shortened(model.classes)}, but the data has "
            f"{shortened(dataset.classes)}: only data of the same classes can judge it"
        )
    if dataset.image_size != model.package.image_size:
        raise DataError(
            f"the model takes images of {model.package.image_size} pixels, but the data was prepared at "
            f"{dataset.image_size}; give --image-size {model.package.image_size}"
        )
    if len(dataset.test.labels) == 0:
        raise DataError(f"{dataset.source} has no test image; raise --test-fraction or add a test part")


def _confidences(probabilities: Probabilities) -> npt.NDArray[np.float64]:
    confidences: npt.NDArray[np.float64] = probabilities.max(axis=1).astype(np.float64).round(_DIGITS)
    return confidences


def _answers(model: Model, part: DatasetPart, rows: Rows) -> Probabilities:
    """The probabilities float32 [M, K] of some of a part's images, of which few are in memory at a time."""
    batches = [
        model.probabilities(part.images[rows[start : start + _BATCH]])
        for start in range(0, len(rows), _BATCH)
    ]
    return np.concatenate([np.empty((0, len(model.classes)), np.float32), *batches])


def _validation_rows(model: Model, dataset: Dataset) -> Rows:
    """Rows of the training part that the package was not trained on, a sample of many; none where not known."""
    provenance = model.package.provenance
    parameters = provenance.get("parameters", {})
    if provenance.get("data_digest") != dataset.digest or not {"seed", "validation_fraction"} <= set(
        parameters
    ):
        return np.empty(0, np.int64)
    _, rows = split_validation(
        dataset.train.labels, float(parameters["validation_fraction"]), int(parameters["seed"])
    )
    return np.sort(np.random.default_rng(_SEED).permutation(rows)[:_MOST_VALIDATED])


def _abstention(validated: Probabilities, labels: Rows, error: float) -> Abstention | None:
    if not len(labels):
        return None
    return choose_threshold(_confidences(validated), validated.argmax(axis=1) == labels, error)


def _robustness(model: Model, test: DatasetPart) -> Robustness:
    side = test.images.shape[1]
    most = int(np.clip(_CORRUPTED_PIXELS // side**2, _LEAST_CORRUPTED, _MOST_CORRUPTED))
    rows = np.random.default_rng(_SEED).permutation(len(test.labels))[:most]
    images = test.images[rows]
    predictions = {
        corruption.name: tuple(model.probabilities(corruption.of(images)).argmax(axis=1).tolist())
        for corruption in CORRUPTIONS
    }
    return Robustness(tuple(rows.tolist()), predictions)


def _label_errors(
    dataset: Dataset, tested: Probabilities, validation: Rows, validated: Probabilities
) -> LabelErrors:
    """Suspects among test and validation images together, so that each class has more images to go by."""
    tests = len(tested)
    probabilities = np.concatenate([tested, validated])
    labels = np.concatenate([dataset.test.labels, dataset.train.labels[validation]])
    rows, suggested = suspects_of(probabilities, labels)
    suspects = []
    for row, suggestion in zip(rows[:MOST_SUSPECTS].tolist(), suggested.tolist(), strict=False):
        part = dataset.test if row < tests else dataset.train
        place = row if row < tests else int(validation[row - tests])
        suspects.append(
            Suspect(
                part="test" if row < tests else "train",
                row=place,
                name=part.names[place],
                label=dataset.classes[labels[row]],
                suggested=dataset.classes[suggestion],
                confidence=round(float(probabilities[row, suggestion]), _DIGITS),
                self_confidence=round(float(probabilities[row, labels[row]]), _DIGITS),
            )
        )
    return LabelErrors(len(labels), len(rows), tuple(suspects))


def _slices(test: DatasetPart, right: npt.NDArray[np.bool_], side: int) -> tuple[Slice, ...]:
    """By the shorter side of the stored image, as multiples of the model's, and by format; [] where all are alike."""
    if test.originals is None:
        return ()
    shorter = test.originals[:, :2].min(axis=1)
    bounds = [side, side + 1, 2 * side, 4 * side, 8 * side]
    names = [
        f"below {side} pixels",
        f"{side} pixels, as the model's",
        *(f"{low} to {high - 1} pixels" for low, high in pairwise(bounds[1:])),
        f"{bounds[-1]} pixels and more",
    ]
    by_size = _grouped("shorter side", np.digitize(shorter, bounds), names, right)
    return by_size + _grouped("format", test.originals[:, 2], ORIGINAL_FORMATS, right)


def _grouped(
    kind: str,
    groups: npt.NDArray[np.int64] | npt.NDArray[np.int32],
    names: list[str] | tuple[str, ...],
    right: npt.NDArray[np.bool_],
) -> tuple[Slice, ...]:
    present = np.unique(groups).tolist()
    if len(present) < 2:
        return ()
    return tuple(
        Slice(kind, names[group], int((groups == group).sum()), int(right[groups == group].sum()))
        for group in present
    )
