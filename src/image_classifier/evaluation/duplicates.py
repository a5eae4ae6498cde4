"""Test images that were trained on: figures over them say nothing of images that were not."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.datasets import Dataset
from image_classifier.package import Images

_THUMBNAIL = 8
_NEIGHBOURS = 10
_AT_ONCE = 500
_MOST_COMPARED = 25_000_000
"""Pairs of images that are held in memory at a time."""
_MOST_PIXELS = 10**9
"""Of the training images that are looked at: about ten seconds' work."""
_SEED = 0

# Chosen on CIFAR-10, where Barz & Denzler 2020 (arXiv:1902.00423) count 3.3 % of the test images as duplicates or
# nearly so: these find less than half of them, and every pair that was looked at shows the same photograph.
_PIXELS_ALIKE, _EDGES_ALIKE, _STANDS_OUT = 0.85, 0.6, 0.2
_PIXELS_SAME, _EDGES_SAME = 0.99, 0.9
_LEAST_SIDE = 16
"""Images of fewer pixels a side look alike without being of the same thing; they must be nearly the same."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Duplicates:
    """Test images that have a duplicate in the training part."""

    test_images: int
    """How many test images were looked at."""
    train_images: int
    """With how many training images each was compared."""
    exact: tuple[int, ...]
    """Rows of the test part whose pixels are those of a training image."""
    near: tuple[int, ...]
    """Rows of the test part that show a training image in other brightness, compression, cut or size."""
    originals: tuple[int, ...]
    """Row of the training part for each of `exact` and then of `near`."""

    @property
    def rows(self) -> tuple[int, ...]:
        return self.exact + self.near

    @property
    def share(self) -> float:
        """Of the test images, those that have a duplicate."""
        return len(self.rows) / self.test_images


def find_duplicates(dataset: Dataset) -> Duplicates:
    """Compare every test image with the training images, of which a sample where they are very many.

    An image is a near duplicate of its nearest training image where both have nearly the same pixels, but for
    brightness and contrast; or where pixels and edges are alike and the distance is below a fifth of that to
    the tenth-nearest image, as two photographs of the same kind of thing are as near to many others. Turned and
    mirrored images are not found.
    """
    test, train = np.asarray(dataset.test.images), dataset.train.images
    sample = _sample(len(train), dataset.image_size)
    exact = _exact(test, train, sample)
    found = {row: original for row, original in _near(test, train, sample).items() if row not in exact}
    return Duplicates(
        test_images=len(test),
        train_images=len(sample),
        exact=tuple(exact),
        near=tuple(found),
        originals=(*exact.values(), *found.values()),
    )


def _sample(count: int, side: int) -> npt.NDArray[np.int64]:
    most = _MOST_PIXELS // side**2
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(_SEED).permutation(count)[:most])


def _exact(test: Images, train: Images, sample: npt.NDArray[np.int64]) -> dict[int, int]:
    """Row of test to row of train, of those with the same pixels."""
    originals = {hash(train[row].tobytes()): int(row) for row in reversed(sample)}
    rows = {}
    for row, image in enumerate(test):
        original = originals.get(hash(image.tobytes()))
        if original is not None and np.array_equal(train[original], image):
            rows[row] = original
    return rows


def _near(test: Images, train: Images, sample: npt.NDArray[np.int64]) -> dict[int, int]:
    """Row of test to row of train, of those that are nearly the same."""
    thumbnails = _thumbnails(train, sample)
    neighbours = min(_NEIGHBOURS, len(sample))
    at_once = max(1, _MOST_COMPARED // len(sample))
    found = {}
    for start in range(0, len(test), at_once):
        images = test[start : start + at_once]
        alike = _thumbnails(images, np.arange(len(images))) @ thumbnails.T
        # Few images are alike in the small, and only these are looked at in full.
        for place in np.flatnonzero(alike.max(axis=1) >= _PIXELS_ALIKE):
            nearest = np.argpartition(-alike[place], neighbours - 1)[:neighbours]
            candidates = np.sort(sample[nearest])
            original = _duplicate_of(images[place], train[candidates])
            if original is not None:
                found[start + int(place)] = int(candidates[original])
    return found


def _duplicate_of(image: Images, candidates: Images) -> int | None:
    """Which of the candidates, uint8 [M, S, S, 3], shows the same as the image, uint8 [S, S, 3]; None: none."""
    pixels = _pixel_vectors(candidates) @ _pixel_vectors(image[np.newaxis])[0]
    place = int(pixels.argmax())
    edges = float((_edge_vectors(candidates[place : place + 1]) @ _edge_vectors(image[np.newaxis])[0])[0])
    same = pixels[place] >= _PIXELS_SAME and edges >= _EDGES_SAME
    stands_out = len(candidates) == _NEIGHBOURS and 1 - pixels[place] <= _STANDS_OUT * (1 - pixels.min())
    alike = pixels[place] >= _PIXELS_ALIKE and edges >= _EDGES_ALIKE and len(image) >= _LEAST_SIDE
    return place if same or (alike and stands_out) else None


def _thumbnails(images: Images, rows: npt.NDArray[np.int64]) -> Vectors:
    """Grey images of 8 x 8 pixels as vectors about 0; float32 [N, 64]."""
    edges = np.linspace(0, images.shape[1], _THUMBNAIL, endpoint=False).astype(np.int64)
    parts = []
    for start in range(0, len(rows), _AT_ONCE):
        grey = images[rows[start : start + _AT_ONCE]].mean(axis=3, dtype=np.float32)
        parts.append(np.add.reduceat(np.add.reduceat(grey, edges, axis=1), edges, axis=2))
    thumbnails = np.concatenate(parts)
    return _unit(thumbnails - thumbnails.mean(axis=(1, 2), keepdims=True))


def _pixel_vectors(images: Images) -> Vectors:
    """All pixels, each channel about its mean, so that the colour of the light does not count."""
    pixels = images.astype(np.float32)
    return _unit(pixels - pixels.mean(axis=(1, 2), keepdims=True))


def _edge_vectors(images: Images) -> Vectors:
    grey = images.mean(axis=3, dtype=np.float32)
    steps = [np.diff(grey, axis=axis).reshape(len(images), -1) for axis in (1, 2)]
    return _unit(np.concatenate(steps, axis=1))


def _unit(values: npt.NDArray[np.float32]) -> Vectors:
    """A vector of length 1 for each row; 0 for a plain image, which has no shape to compare."""
    vectors = values.reshape(len(values), -1)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # Rounding leaves a plain image with a length, too.
    unit: Vectors = np.where(lengths > 1, vectors / np.maximum(lengths, 1), 0).astype(np.float32)
    return unit
