"""Reference statistics for drift detection: histograms of image statistics and predictions.

Each image has one value of each feature, and only the histograms are kept. Their bins lie between the deciles of the
training images. Histograms of several servers can be added, and no image can be reconstructed from them.

A model on a backbone also has a sample of embeddings, projected to a few dozen numbers each.
"""

import base64
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classifier.package.model import Embeddings
from image_classifier.package.package import Images, Probabilities

IMAGE_STATISTICS = ("brightness", "contrast", "sharpness", "direction", "warmth")
SIZE_FEATURE, CONFIDENCE_FEATURE, CLASS_FEATURE = "size", "confidence", "class"
_CROP_PIXELS = 64
"""Side of the center crop of a larger image, which takes 20 µs whatever the image's size."""
_DECILES = np.linspace(0, 1, 11)[1:-1]
_MIN_SHARE_OF_OWN_BIN = 0.05
"""A value that this share of the images has, such as the size if all are equal, gets its own bin."""
_CONFIDENCE_DECIMALS = 4
"""Machines differ in the further decimals."""
EMBEDDING_FEATURE = "embedding"
_MAX_PROJECTED_DIMENSIONS = 32
_MAX_PROJECTION_NUMBERS = 131_072
"""Of E x D: 0.7 MB in the package."""
_MIN_RELATIVE_DEVIATION = 1e-3
"""Directions with a smaller standard deviation, relative to the largest, are rounding errors."""
MIN_EMBEDDINGS, MAX_EMBEDDINGS = 20, 500
"""Number of images in a sample of embeddings: fewer are not compared, and more are not kept."""
_MAX_PROJECTED = 1_000.0  # in standard deviations; float16 holds it


def center_crop(image: Images) -> Images:
    """The part of an image, uint8 [S, S, 3], that the statistics use: at most 64 x 64 pixels. A view."""
    side = len(image)
    if side <= _CROP_PIXELS:
        return image
    start = (side - _CROP_PIXELS) // 2
    return image[start : start + _CROP_PIXELS, start : start + _CROP_PIXELS]


def image_statistics(image: Images) -> tuple[float, ...]:
    """Compute the IMAGE_STATISTICS of an image, uint8 [S, S, 3].

    brightness: mean, 0 to 1. contrast: standard deviation, 0 to 1. sharpness: mean absolute difference between adjacent
    pixels, 0 to 1. direction: share of the horizontal differences in that, which changes if images are rotated by 90
    degrees. warmth: mean of red minus mean of blue, -1 to 1.
    """
    pixels = center_crop(image)
    side = len(pixels)
    rows = pixels.reshape(side, 3 * side).astype(np.float32)
    flat = rows.ravel()
    # Few, large operations, through BLAS if possible: each call of NumPy takes a microsecond even for a tiny image.
    red, green, blue = (np.ones(side * side, np.float32) @ flat.reshape(-1, 3)).tolist()
    mean = (red + green + blue) / flat.size
    variance = float(flat @ flat) / flat.size - mean * mean
    vertical = _mean_difference(flat[3 * side :], flat[: -3 * side])
    horizontal = _mean_difference(rows[:, 3:], rows[:, :-3])
    total = vertical + horizontal
    return (
        mean / 255,
        max(variance, 0.0) ** 0.5 / 255,
        total / 2 / 255,
        horizontal / total if total else 0.5,
        (red - blue) / (side * side) / 255,
    )


def _mean_difference(pixels: npt.NDArray[np.float32], neighbors: npt.NDArray[np.float32]) -> float:
    differences = pixels - neighbors
    np.abs(differences, out=differences)
    return float(np.add.reduce(differences.ravel())) / differences.size


def top_confidence(probabilities: Probabilities) -> float:
    """The probability of the most probable class, from float32 [K], rounded to four decimals."""
    return round(float(probabilities.max()), _CONFIDENCE_DECIMALS)


def shorter_side(width: int, height: int) -> float:
    """The size feature of an image, from its stored width and height in pixels."""
    return float(min(width, height))


def bin_index(edges: Sequence[float], value: float) -> int:
    """Returns the bin of a value, 0 to len(edges): the number of sorted edges that are not greater."""
    return bisect_right(edges, value)


def compute_reference(
    images: Iterable[Images], originals: npt.NDArray[np.int32] | None, probabilities: Probabilities
) -> dict[str, Any]:
    """Compute the reference statistics of a package: bin edges and counts of each feature.

    images: N training images, uint8 [S, S, 3], which are read one by one.
    originals: their stored dimensions, int32 [N, 2 or more], width and height first; None if unknown.
    probabilities: predictions, float32 [M, K], for images that the model was not trained on.
    """
    table = np.array([image_statistics(image) for image in images], dtype=np.float64)
    features = {name: _histogram(table[:, column]) for column, name in enumerate(IMAGE_STATISTICS)}
    if originals is not None:
        features[SIZE_FEATURE] = _histogram(np.array([shorter_side(*row[:2]) for row in originals.tolist()]))
    features[CONFIDENCE_FEATURE] = _histogram(np.array([top_confidence(row) for row in probabilities]))
    classes = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return {"images": len(table), "features": {**features, CLASS_FEATURE: {"counts": classes.tolist()}}}


def _histogram(values: npt.NDArray[np.float64]) -> dict[str, list[float] | list[int]]:
    edges: set[float] = set()
    for value in np.unique(np.quantile(values, _DECILES, method="inverted_cdf")).tolist():
        edges.add(value)
        if (values == value).mean() >= _MIN_SHARE_OF_OWN_BIN:
            edges.add(float(np.nextafter(value, np.inf)))
    ordered = sorted(edges)
    bins = np.searchsorted(ordered, values, side="right")
    return {"edges": ordered, "counts": np.bincount(bins, minlength=len(ordered) + 1).tolist()}


def compute_embedding_reference(fitted: Embeddings, sample: Embeddings) -> dict[str, Any]:
    """Compute the part of the reference statistics for embeddings; {} if there are too few images or all are equal.

    fitted: float32 [N, E], from which the projection is computed: the principal components, scaled to unit variance.
    sample: float32 [M, E], of images that neither the embeddings nor the projection were fitted to: only then are new
    images of the same kind distributed like them. Their projections, float16 [M, D], are the reference.
    """
    if min(len(fitted), len(sample)) < MIN_EMBEDDINGS:
        return {}
    mean = fitted.mean(axis=0, dtype=np.float64)
    _, singular, directions = np.linalg.svd(fitted - mean, full_matrices=False)
    if not singular[0] > 0:
        return {}
    count = min(_MAX_PROJECTED_DIMENSIONS, max(1, _MAX_PROJECTION_NUMBERS // fitted.shape[1]))
    count = min(count, int((singular > _MIN_RELATIVE_DEVIATION * singular[0]).sum()))
    scales = singular[:count] / np.sqrt(len(fitted) - 1)
    # Rounded as stored, so that the reference and the images that a server receives are projected equally.
    matrix = (directions[:count].T / scales).astype(np.float32)
    offset = (-mean @ matrix).astype(np.float32)
    return {
        EMBEDDING_FEATURE: {
            "dimensions": count,
            "matrix": encode_array(matrix),
            "offset": encode_array(offset),
            "sample": encode_array(project(sample, matrix, offset).astype(np.float16)),
        }
    }


def project(
    embeddings: Embeddings, matrix: npt.NDArray[np.float32], offset: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Project embeddings, float32 [N, E], by a matrix [E, D] and an offset [D]; returns float32 [N, D]."""
    projected: npt.NDArray[np.float32] = np.nan_to_num(embeddings @ matrix + offset)
    return projected.clip(-_MAX_PROJECTED, _MAX_PROJECTED)


def encode_array(values: npt.NDArray[np.floating[Any]]) -> str:
    """The numbers of an array in base64, little-endian, without its type and shape."""
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def decode_array(text: str, dtype: str, columns: int) -> npt.NDArray[np.float32]:
    """The reverse of `encode_array`: float32 [N, columns] from numbers of the NumPy type `dtype`.

    Raises ValueError if the text is not base64 of such rows, or if a number is not finite.
    """
    values = np.frombuffer(base64.b64decode(text, validate=True), np.dtype(dtype).newbyteorder("<"))
    values = values.astype(np.float32).reshape(-1, columns)
    if not np.isfinite(values).all():
        raise ValueError("a number is not finite")
    return values
