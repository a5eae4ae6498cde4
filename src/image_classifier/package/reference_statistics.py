"""What images and answers look like in the mass, so that a server can notice when they change.

Each image gives a number of each kind; of all that were seen only counts are kept, in bins between the deciles of
the images that the model was made with. Counts of several servers add up, and no image can be made from them.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classifier.package.package import Images, Probabilities

IMAGE_STATISTICS = ("brightness", "contrast", "sharpness", "direction", "warmth")
SIZE, CONFIDENCE, CLASS = "size", "confidence", "class"
_LARGEST_SIDE = 64
"""Of a larger image its middle is looked at: that takes a fiftieth of a millisecond, whatever the image's size."""
_DECILES = np.linspace(0, 1, 11)[1:-1]
_ATOM = 0.05
"""A value that so many of the images share, such as the size of all of them, has a bin of its own."""
_DECIMALS = 4
"""Confidences are compared with so many: machines differ in the last ones."""

Values = npt.NDArray[np.float64]


def middle_of(image: Images) -> Images:
    """What of an image uint8 [S, S, 3] is looked at: all of it, or of a large one its middle; a view."""
    side = len(image)
    if side <= _LARGEST_SIDE:
        return image
    start = (side - _LARGEST_SIDE) // 2
    return image[start : start + _LARGEST_SIDE, start : start + _LARGEST_SIDE]


def image_statistics(image: Images) -> tuple[float, ...]:
    """The IMAGE_STATISTICS of one image, uint8 [S, S, 3]; brightness and contrast (standard deviation) in 0..1.

    Sharpness is the mean absolute difference of neighbouring pixels; direction the share of it between neighbours in
    a row, which changes when images are turned; warmth the mean of red less that of blue.
    """
    pixels = middle_of(image)
    side = len(pixels)
    rows = pixels.reshape(side, 3 * side).astype(np.float32)
    flat = rows.ravel()
    # Few and large steps, by BLAS where it can: each of NumPy's own takes a microsecond however small the image.
    red, green, blue = (np.ones(side * side, np.float32) @ flat.reshape(-1, 3)).tolist()
    mean = (red + green + blue) / flat.size
    variance = float(flat @ flat) / flat.size - mean * mean
    down = _mean_step(flat[3 * side :], flat[: -3 * side])
    across = _mean_step(rows[:, 3:], rows[:, :-3])
    steps = down + across
    return (
        mean / 255,
        max(variance, 0.0) ** 0.5 / 255,
        steps / 2 / 255,
        across / steps if steps else 0.5,
        (red - blue) / (side * side) / 255,
    )


def _mean_step(pixels: npt.NDArray[np.float32], neighbours: npt.NDArray[np.float32]) -> float:
    steps = pixels - neighbours
    np.abs(steps, out=steps)
    return float(np.add.reduce(steps.ravel())) / steps.size


def confidence_of(probabilities: Probabilities) -> float:
    """The confidence in the likeliest class of one answer, float32 [K], as it is counted."""
    return round(float(probabilities.max()), _DECIMALS)


def shorter_side(width: int, height: int) -> float:
    """The size of an image as it is counted."""
    return float(min(width, height))


def place_in(edges: Sequence[float], value: float) -> int:
    """The bin of a value, 0 to len(edges): how many of the sorted edges are not above it."""
    return bisect_right(edges, value)


def reference_statistics(
    images: Images, originals: npt.NDArray[np.int32] | None, probabilities: Probabilities
) -> dict[str, Any]:
    """The reference of a package: of each feature the edges of its bins and how many images fell into each.

    images: of the data that the model was made with, uint8 [N, S, S, 3]; what it learnt from may be among them.
    originals: their sizes as stored, int32 [N, 2 or more], width and height first; None where not known.
    probabilities: answers to images that the model did not learn from, float32 [M, K].
    """
    table = np.array([image_statistics(image) for image in images], dtype=np.float64)
    features = {name: _binned(table[:, place]) for place, name in enumerate(IMAGE_STATISTICS)}
    if originals is not None:
        features[SIZE] = _binned(np.array([shorter_side(*row[:2]) for row in originals.tolist()]))
    features[CONFIDENCE] = _binned(np.array([confidence_of(row) for row in probabilities]))
    answers = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return {"images": len(images), "features": {**features, CLASS: {"counts": answers.tolist()}}}


def _binned(values: Values) -> dict[str, list[float] | list[int]]:
    edges: set[float] = set()
    for value in np.unique(np.quantile(values, _DECILES, method="inverted_cdf")).tolist():
        edges.add(value)
        if (values == value).mean() >= _ATOM:
            edges.add(float(np.nextafter(value, np.inf)))
    ordered = sorted(edges)
    places = np.searchsorted(ordered, values, side="right")
    return {"edges": ordered, "counts": np.bincount(places, minlength=len(ordered) + 1).tolist()}
