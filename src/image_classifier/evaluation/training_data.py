"""Problems of the training data, found by the embeddings of a model on a backbone: duplicates, labels and outliers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from image_classifier.datasets import Dataset, stratified_folds
from image_classifier.evaluation.label_errors import LabelErrors, Suspect, find_label_errors
from image_classifier.evaluation.near_duplicates import Vectors, find_neighbors, same_photos, standardize
from image_classifier.files import release_pages
from image_classifier.package import Images, Probabilities

Rows = npt.NDArray[np.int64]

MAX_PAIRS, _MAX_OUTLIERS = 12, 12
_BATCH = 256
_FOLDS = 5
_RIDGE = 1e-3  # of the squared length of an image's features; 3e-3 and more are less accurate on clothes
_TEMPERATURES = np.geomspace(0.01, 1, 25)
_MIN_IMAGES = 20  # fewer do not show what is usual
_MIN_DEVIATIONS = 3.0  # of 2,260 clean photos of clothes, 1 (EfficientNet-Lite0) to 16 (Lite2) are farther
_MAX_BLANK_DEVIATION, _BLANK_STEP = 3.0, 4  # gray levels; of every fourth row and column. Photos of clothes have 12
_NORMAL_QUARTILES = 1.349  # distance of the quartiles of a normal distribution in standard deviations


@dataclass(frozen=True)
class DuplicatePair:
    """A training image and another one that shows the same photo; rows of the training part."""

    row: int
    name: str
    label: str
    other_row: int
    other_name: str
    other_label: str


@dataclass(frozen=True)
class Outlier:
    """A training image that is unlike all others, or blank."""

    row: int
    name: str
    label: str
    is_blank: bool
    """Whether it has a single color."""
    deviations: float
    """Distance to the nearest images, in robust standard deviations of its logarithm from the median."""


@dataclass(frozen=True)
class TrainingData:
    """Problems of the training part, which includes the validation split. The field names are those of the JSON."""

    images: int
    """Number of images checked; more are not, as each takes a run of the model."""
    total: int
    identical: int
    """Number of images, of the total, whose file is the same as that of another image."""
    duplicates: int
    """Number of checked images that show the same photo as another one, identical ones included."""
    contradictory: int
    """Number of these duplicates whose class differs from that of the other image."""
    validation_duplicates: int
    """Number of validation images that show the same photo as an image trained on."""
    pairs: tuple[DuplicatePair, ...]
    """Some of the duplicates, at most 12: of different classes first."""
    label_errors: LabelErrors
    """Of the images outside the validation split."""
    outlier_count: int
    outliers: tuple[Outlier, ...]
    """The most distant ones, at most 12; blank images first."""


def check_training_data(dataset: Dataset, rows: Rows, embeddings: Vectors, validation: Rows) -> TrainingData:
    """Check the images `rows` of the training part, int64 [M], sorted, with their embeddings, float32 [M, E].

    `validation` are the rows of the validation split, empty if they are unknown.
    """
    train, labels = dataset.train, dataset.train.labels[rows]
    features = standardize(embeddings, embeddings)
    neighbors = find_neighbors(features, features, same=True)
    same = same_photos(train.images, rows, train.images, rows, neighbors)
    others = neighbors.rows[same]
    in_validation = np.isin(rows, validation)
    differs = labels[same] != labels[others]
    probabilities = cross_validated_probabilities(features, labels, len(dataset.classes))
    outlier_count, outliers = _outliers(dataset, rows, neighbors.distances)
    _, counts = np.unique(train.hashes, return_counts=True)
    held_out = find_neighbors(features[in_validation], features[~in_validation])
    leaked = same_photos(train.images, rows[in_validation], train.images, rows[~in_validation], held_out)
    return TrainingData(
        images=len(rows),
        total=len(train.labels),
        identical=int(counts[counts > 1].sum()),
        duplicates=len(same),
        contradictory=int(differs.sum()),
        validation_duplicates=len(leaked),
        pairs=_pairs(dataset, rows, same, others, differs),
        label_errors=_label_errors(dataset, rows, probabilities, ~in_validation),
        outlier_count=outlier_count,
        outliers=outliers,
    )


def cross_validated_probabilities(features: Vectors, labels: Rows, classes: int) -> Probabilities:
    """Probabilities, float32 [N, K], of a classifier that was fitted without the image.

    A ridge regression of the one-hot labels, which has a closed form, in five folds; the temperature of the softmax has
    the lowest loss. `features`, float32 [N, E], are standardized; `labels` is int64 [N].
    """
    scaled = (features / np.sqrt(features.shape[1])).astype(np.float64)
    targets = np.eye(classes)[labels]
    folds = stratified_folds(labels, _FOLDS)
    gram, products = scaled.T @ scaled, scaled.T @ targets
    scores = np.empty((len(labels), classes))
    for fold in range(_FOLDS):
        outside = folds == fold
        held_out, count = scaled[outside], int((~outside).sum())
        mean = targets[~outside].mean(axis=0) if count else np.full(classes, 1 / classes)
        fitted = gram - held_out.T @ held_out
        center = scaled[~outside].sum(axis=0)
        right = products - held_out.T @ targets[outside] - np.outer(center, mean)
        fitted[np.diag_indices_from(fitted)] += _RIDGE * max(count, 1)
        scores[outside] = held_out @ np.linalg.solve(fitted, right) + mean
    true = np.arange(len(labels)), labels
    best = min(
        (softmax(scores / t, axis=1) for t in _TEMPERATURES), key=lambda p: -np.log(np.maximum(p[true], 1e-9)).mean()
    )
    result: Probabilities = best.astype(np.float32)
    return result


def _label_errors(
    dataset: Dataset, rows: Rows, probabilities: Probabilities, reported: npt.NDArray[np.bool_]
) -> LabelErrors:
    """The suspects among the `reported` images; the noise is estimated on all."""
    indices, suggested, wrong = find_label_errors(probabilities, dataset.train.labels[rows])
    chosen = reported[indices]
    suspects = [
        Suspect.of("train", dataset.train, int(rows[index]), dataset.classes, int(suggestion), probabilities[index])
        for index, suggestion in zip(indices[chosen], suggested[chosen], strict=True)
    ]
    return LabelErrors.of(int(reported.sum()), suspects, wrong[chosen])


def _pairs(
    dataset: Dataset, rows: Rows, same: Rows, others: Rows, differs: npt.NDArray[np.bool_]
) -> tuple[DuplicatePair, ...]:
    part = dataset.train
    pairs: dict[frozenset[int], DuplicatePair] = {}
    for index in np.argsort(~differs, kind="stable"):
        row, other = int(rows[same[index]]), int(rows[others[index]])
        pairs.setdefault(
            frozenset((row, other)),
            DuplicatePair(
                row,
                part.names[row],
                dataset.classes[part.labels[row]],
                other,
                part.names[other],
                dataset.classes[part.labels[other]],
            ),
        )
    return tuple(pairs.values())[:MAX_PAIRS]


def _outliers(dataset: Dataset, rows: Rows, distances: npt.NDArray[np.float64]) -> tuple[int, tuple[Outlier, ...]]:
    """The number of outliers, and the most distant ones.

    The logarithm of the distance to the nearest images is compared with its median and quartiles. Blank images are near
    the others, as they have hardly any features, so they are found by their pixels.
    """
    part = dataset.train
    blank = np.concatenate([_is_blank(part.images[rows[i : i + _BATCH]]) for i in range(0, len(rows), _BATCH)])
    release_pages(part.images)
    logarithms = np.log(np.maximum(distances, np.finfo(np.float64).tiny))
    low, median, high = np.quantile(logarithms, [0.25, 0.5, 0.75])
    deviations = (logarithms - median) / max((high - low) / _NORMAL_QUARTILES, 1e-3)
    far = (deviations >= _MIN_DEVIATIONS) & (len(rows) >= _MIN_IMAGES)
    found = np.flatnonzero(blank | far)
    order = found[np.lexsort((-deviations[found], ~blank[found]))]
    outliers = tuple(
        Outlier(
            row=int(rows[index]),
            name=part.names[rows[index]],
            label=dataset.classes[part.labels[rows[index]]],
            is_blank=bool(blank[index]),
            deviations=round(float(deviations[index]), 2),
        )
        for index in order[:_MAX_OUTLIERS]
    )
    return len(found), outliers


def _is_blank(images: Images) -> npt.NDArray[np.bool_]:
    """Whether each image, uint8 [N, S, S, 3], has a single color: bool [N]."""
    values = images[:, ::_BLANK_STEP, ::_BLANK_STEP].astype(np.float32)
    blank: npt.NDArray[np.bool_] = values.std(axis=(1, 2)).max(axis=1) <= _MAX_BLANK_DEVIATION
    return blank
