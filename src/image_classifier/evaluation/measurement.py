"""Measure an exported package on the test part."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from image_classifier.datasets import ORIGINAL_FORMATS, Dataset, DatasetPart, split_validation
from image_classifier.errors import DataError
from image_classifier.evaluation.calibration import Abstention, choose_threshold
from image_classifier.evaluation.corruptions import CORRUPTIONS, Corruption
from image_classifier.evaluation.duplicates import Duplicates, find_duplicates
from image_classifier.evaluation.evaluation import Evaluation, Robustness, Slice
from image_classifier.evaluation.label_errors import LabelErrors, Suspect, find_label_errors
from image_classifier.evaluation.latency import describe_machine, measure_latency
from image_classifier.evaluation.near_duplicates import Vectors, find_neighbors, same_photos, standardize
from image_classifier.evaluation.training_data import check_training_data
from image_classifier.files import release_pages
from image_classifier.package import Images, Model, Probabilities
from image_classifier.text import listed

_MAX_CORRUPTED_IMAGES, _MIN_CORRUPTED_IMAGES, _CORRUPTED_PIXELS = 2_000, 500, 8_000_000
_MAX_VALIDATION_IMAGES = 5_000
_EMBEDDED_PIXELS = 250_000_000  # 5,000 images at 224 pixels; half a minute of EfficientNet-Lite0 on two cores
_BATCH = 256
_SEED = 0
_DECIMALS = 6  # confidences are stored and compared with this many

Rows = npt.NDArray[np.int64]


def measure(
    model: Model, dataset: Dataset, *, test_fraction: float, abstain_error: float
) -> tuple[Evaluation, Probabilities]:
    """Evaluate a loaded package on the test part; also returns its probabilities, float32 [N, K].

    `abstain_error` is the target error rate of the abstention threshold, which is chosen on validation images. Raises
    DataError if the data set has other classes than the package, another order of classes, another image size or
    another framing.
    """
    _check(model, dataset)
    test = dataset.test
    validation = _validation_rows(model, dataset)
    duplicates, training_data = find_duplicates(dataset), None
    if model.has_embedding:
        checked = _embedded_rows(len(dataset.train.labels), dataset.image_size, validation)
        train_probabilities, embeddings = _embed(model, dataset.train, checked)
        validation_probabilities = train_probabilities[np.searchsorted(checked, validation)]
        training_data = check_training_data(dataset, checked, embeddings, validation)
        embedded = _embedded_rows(len(test.labels), dataset.image_size, np.empty(0, np.int64))
        others = np.setdiff1d(np.arange(len(test.labels)), embedded)
        probabilities = np.empty((len(test.labels), len(dataset.classes)), np.float32)
        probabilities[embedded], test_embeddings = _embed(model, test, embedded)
        probabilities[others] = _predict(model, test, others)
        duplicates = _with_near_duplicates(duplicates, dataset, (embedded, test_embeddings), (checked, embeddings))
    else:
        probabilities = model.probabilities(np.asarray(test.images))
        validation_probabilities = _predict(model, dataset.train, validation)
    confidences, predictions = _confidences(probabilities), probabilities.argmax(axis=1)
    true_class = probabilities[np.arange(len(test.labels)), test.labels].astype(np.float64)
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
        latency_p95_interval=latency.p95_interval,
        machine=describe_machine(),
        model_bytes=model.package.model_file.stat().st_size,
        abstention=_abstention(validation_probabilities, dataset.train.labels[validation], abstain_error),
        robustness=_robustness(model, test),
        duplicates=duplicates,
        label_errors=_label_errors(dataset, probabilities, validation, validation_probabilities),
        slices=_slices(test, predictions == test.labels, dataset.image_size),
        brier_scores=tuple(_brier_scores(probabilities, test.labels).tolist()),
        hashes=tuple(f"{value:016x}" for value in test.hashes.tolist()),
        training_data=training_data,
    )
    return evaluation, probabilities


def _check(model: Model, dataset: Dataset) -> None:
    if dataset.classes != model.classes:
        raise DataError(
            f"the model has the classes {listed(model.classes)}, but the data set has {listed(dataset.classes)}; "
            "evaluate it on data with the same classes"
        )
    if dataset.image_size != model.package.image_size:
        raise DataError(
            f"the model takes images of {model.package.image_size} pixels, but the data was prepared at "
            f"{dataset.image_size} pixels; set --image-size {model.package.image_size}"
        )
    if dataset.framing != model.package.framing:
        raise DataError(
            f"the model takes images with the framing {model.package.framing}, but the data was prepared with "
            f"{dataset.framing}; set --framing {model.package.framing}"
        )
    if len(dataset.test.labels) == 0:
        raise DataError(f"{dataset.source} has no test images; raise --test-fraction or add a test part")


def _confidences(probabilities: Probabilities) -> npt.NDArray[np.float64]:
    confidences: npt.NDArray[np.float64] = probabilities.max(axis=1).astype(np.float64).round(_DECIMALS)
    return confidences


def _brier_scores(probabilities: Probabilities, labels: Rows) -> npt.NDArray[np.float64]:
    """Multi-class Brier score of each image (Brier 1950), [N]."""
    squares = np.square(probabilities, dtype=np.float64).sum(axis=1)
    scores: npt.NDArray[np.float64] = squares - 2 * probabilities[np.arange(len(labels)), labels] + 1
    return scores.round(_DECIMALS)


def _predict(model: Model, part: DatasetPart, rows: Rows) -> Probabilities:
    batches = [model.probabilities(batch) for batch in _batches(part, rows)]
    return np.concatenate([np.empty((0, len(model.classes)), np.float32), *batches])


def _batches(part: DatasetPart, rows: Rows) -> Iterator[Images]:
    """Yield the images in these rows, a few at a time, without keeping those before in memory."""
    for start in range(0, len(rows), _BATCH):
        yield part.images[rows[start : start + _BATCH]]
        release_pages(part.images)


def _validation_rows(model: Model, dataset: Dataset) -> Rows:
    """Rows of the training part that the package was not trained on, at most 5,000; none if that is unknown."""
    provenance = model.package.provenance
    parameters = provenance.get("parameters", {})
    if provenance.get("data_digest") != dataset.digest or not {"seed", "validation_fraction"} <= set(parameters):
        return np.empty(0, np.int64)
    _, rows = split_validation(dataset, float(parameters["validation_fraction"]), int(parameters["seed"]))
    return np.sort(np.random.default_rng(_SEED).permutation(rows)[:_MAX_VALIDATION_IMAGES])


def _embedded_rows(count: int, side: int, first: Rows) -> Rows:
    """Rows of a part with this number of images whose embeddings are computed: `first`, and a sample of the others."""
    others = np.setdiff1d(np.arange(count), first)
    sample = np.random.default_rng(_SEED).permutation(others)[: max(0, _EMBEDDED_PIXELS // side**2 - len(first))]
    return np.sort(np.concatenate([first, sample]))


def _embed(model: Model, part: DatasetPart, rows: Rows) -> tuple[Probabilities, Vectors]:
    """Probabilities, float32 [M, K], and embeddings, float32 [M, E], of the images in these rows."""
    batches = [model.probabilities_and_embeddings(batch) for batch in _batches(part, rows)]
    probabilities, embeddings = zip(*batches, strict=True)
    return np.concatenate(probabilities), np.concatenate(embeddings)


def _with_near_duplicates(
    found: Duplicates, dataset: Dataset, test: tuple[Rows, Vectors], train: tuple[Rows, Vectors]
) -> Duplicates:
    """Add the test images whose nearest training image by embedding shows the same photo.

    Of both parts: the rows and their embeddings.
    """
    rows, train_rows = test[0], train[0]
    neighbors = find_neighbors(standardize(test[1], train[1]), standardize(train[1], train[1]))
    same = same_photos(dataset.test.images, rows, dataset.train.images, train_rows, neighbors)
    near = {int(rows[index]): int(train_rows[neighbors.rows[index]]) for index in same}
    near = {row: original for row, original in near.items() if row not in found.rows}
    return replace(found, near=(*found.near, *near), originals=(*found.originals, *near.values()))


def _abstention(probabilities: Probabilities, labels: Rows, error: float) -> Abstention | None:
    if not len(labels):
        return None
    return choose_threshold(_confidences(probabilities), probabilities.argmax(axis=1) == labels, error)


def _robustness(model: Model, test: DatasetPart) -> Robustness:
    count = _CORRUPTED_PIXELS // test.images.shape[1] ** 2
    count = int(np.clip(count, _MIN_CORRUPTED_IMAGES, _MAX_CORRUPTED_IMAGES))
    rows = np.random.default_rng(_SEED).permutation(len(test.labels))[:count]

    def predicted(corruption: Corruption) -> tuple[int, ...]:
        batches = corruption.batches(test.images, rows)
        return tuple(chain.from_iterable(model.probabilities(batch).argmax(axis=1).tolist() for batch in batches))

    return Robustness(tuple(rows.tolist()), {corruption.name: predicted(corruption) for corruption in CORRUPTIONS})


def _label_errors(
    dataset: Dataset, test_probabilities: Probabilities, validation: Rows, validation_probabilities: Probabilities
) -> LabelErrors:
    """Suspects among test and validation images together, because the estimate of the noise needs many images."""
    tests = len(test_probabilities)
    probabilities = np.concatenate([test_probabilities, validation_probabilities])
    labels = np.concatenate([dataset.test.labels, dataset.train.labels[validation]])
    rows, suggested, wrong = find_label_errors(probabilities, labels)
    suspects = []
    for row, suggestion in zip(rows.tolist(), suggested.tolist(), strict=True):
        name, part, part_row = "test", dataset.test, row
        if row >= tests:
            name, part, part_row = "train", dataset.train, int(validation[row - tests])
        suspects.append(Suspect.of(name, part, part_row, dataset.classes, suggestion, probabilities[row]))
    return LabelErrors.of(len(labels), suspects, wrong)


def _slices(test: DatasetPart, correct: npt.NDArray[np.bool_], side: int) -> tuple[Slice, ...]:
    """Slices by shorter side, in multiples of the model's input size, and by format; none if all images are equal."""
    if test.originals is None:
        return ()
    shorter = test.originals[:, :2].min(axis=1)
    bounds = [side, side + 1, 2 * side, 4 * side, 8 * side]
    names = [
        f"below {side} pixels",
        f"{side} pixels (the model's input size)",
        *(f"{low} to {high - 1} pixels" for low, high in pairwise(bounds[1:])),
        f"{bounds[-1]} pixels or more",
    ]
    by_size = _slices_by("shorter side", np.digitize(shorter, bounds), names, correct)
    return by_size + _slices_by("format", test.originals[:, 2], ORIGINAL_FORMATS, correct)


def _slices_by(
    kind: str, groups: npt.NDArray[np.integer], names: Sequence[str], correct: npt.NDArray[np.bool_]
) -> tuple[Slice, ...]:
    present = np.unique(groups).tolist()
    if len(present) < 2:
        return ()
    return tuple(
        Slice(kind, names[group], int((groups == group).sum()), int(correct[groups == group].sum()))
        for group in present
    )
