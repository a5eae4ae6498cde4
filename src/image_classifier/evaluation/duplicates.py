"""Detection of test images that are also in the training part, which inflate the metrics."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.datasets import Dataset
from image_classifier.files import release_pages
from image_classifier.package import Images

_THUMBNAIL_SIDE = 8
_NEIGHBORS = 10
_BATCH = 500
_MAX_PAIRS = 25_000_000  # similarities in memory at a time
_MAX_TRAIN_PIXELS = 10**9  # a larger training part is sampled; about ten seconds of work
_SEED = 0

# Chosen on CIFAR-10, where Barz & Denzler 2020 (arXiv:1902.00423) count 3.3 % of the test images as exact or near
# duplicates: these thresholds find less than half of them, and every inspected pair shows the same photograph.
_MIN_PIXEL_SIMILARITY, _MIN_EDGE_SIMILARITY, _MAX_DISTANCE_RATIO = 0.85, 0.6, 0.2
_SAME_PIXEL_SIMILARITY, _SAME_EDGE_SIMILARITY = 0.99, 0.9
_MIN_SIDE = 16  # smaller images of different objects look alike, so they must be nearly identical

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Duplicates:
    """Test images that have a duplicate in the training part."""

    test_images: int
    train_images: int
    """Number of training images that each was compared with."""
    exact: tuple[int, ...]
    """Rows of the test part whose pixels equal those of a training image."""
    near: tuple[int, ...]
    """Rows of the test part that show a training image with other brightness, compression, crop or size."""
    originals: tuple[int, ...]
    """Row of the training part for each of `exact`, then of `near`."""

    @property
    def rows(self) -> tuple[int, ...]:
        return self.exact + self.near

    @property
    def share(self) -> float:
        """Fraction of the test images that have a duplicate."""
        return len(self.rows) / self.test_images


def find_duplicates(dataset: Dataset) -> Duplicates:
    """Compare every test image with the training images, or with a sample of them if there are very many.

    An image is a near duplicate of its nearest training image in two cases: the pixels are nearly the same except for
    brightness and contrast; or pixels and edges are similar and the distance is less than a fifth of the distance to
    the tenth-nearest image. The second condition excludes photographs of the same kind of object, which are as near
    to many others. Rotated and mirrored images are not found.
    """
    test, train = dataset.test.images, dataset.train.images
    sample = _sample(len(train), dataset.image_size)
    exact = _exact(test, train, sample)
    near = {row: original for row, original in _near(test, train, sample).items() if row not in exact}
    return Duplicates(len(test), len(sample), tuple(exact), tuple(near), (*exact.values(), *near.values()))


def _sample(count: int, side: int) -> npt.NDArray[np.int64]:
    maximum = _MAX_TRAIN_PIXELS // side**2
    if count <= maximum:
        return np.arange(count)
    return np.sort(np.random.default_rng(_SEED).permutation(count)[:maximum])


def _exact(test: Images, train: Images, sample: npt.NDArray[np.int64]) -> dict[int, int]:
    """Test row to training row of the images with equal pixels."""
    originals = {}
    for count, row in enumerate(reversed(sample)):
        originals[hash(train[row].tobytes())] = int(row)
        if count % _BATCH == 0:
            release_pages(train)
    rows = {}
    for row, image in enumerate(test):
        if row % _BATCH == 0:
            release_pages(test)
        original = originals.get(hash(image.tobytes()))
        if original is not None and np.array_equal(train[original], image):
            rows[row] = original
    return rows


def _near(test: Images, train: Images, sample: npt.NDArray[np.int64]) -> dict[int, int]:
    thumbnails = _thumbnails(train, sample)
    neighbors = min(_NEIGHBORS, len(sample))
    batch = max(1, _MAX_PAIRS // len(sample))
    rows = {}
    for start in range(0, len(test), batch):
        images = test[start : start + batch]
        similarities = _thumbnails(images, np.arange(len(images))) @ thumbnails.T
        # Few thumbnails are similar; only these images are compared at full size.
        for row in np.flatnonzero(similarities.max(axis=1) >= _MIN_PIXEL_SIMILARITY):
            nearest = np.argpartition(-similarities[row], neighbors - 1)[:neighbors]
            candidates = np.sort(sample[nearest])
            original = _find_duplicate(images[row], train[candidates])
            if original is not None:
                rows[start + int(row)] = int(candidates[original])
    return rows


def _find_duplicate(image: Images, candidates: Images) -> int | None:
    """Index of the candidate, of uint8 [M, S, S, 3], that shows the same as the image, uint8 [S, S, 3]."""
    pixels = _pixel_vectors(candidates) @ _pixel_vectors(image[np.newaxis])[0]
    best = int(pixels.argmax())
    edges = float((_edge_vectors(candidates[best : best + 1]) @ _edge_vectors(image[np.newaxis])[0])[0])
    same = pixels[best] >= _SAME_PIXEL_SIMILARITY and edges >= _SAME_EDGE_SIMILARITY
    stands_out = len(candidates) == _NEIGHBORS and 1 - pixels[best] <= _MAX_DISTANCE_RATIO * (1 - pixels.min())
    similar = pixels[best] >= _MIN_PIXEL_SIMILARITY and edges >= _MIN_EDGE_SIMILARITY and len(image) >= _MIN_SIDE
    return best if same or (similar and stands_out) else None


def _thumbnails(images: Images, rows: npt.NDArray[np.int64]) -> Vectors:
    """Unit vectors of the zero-mean grayscale thumbnails, 8 x 8 pixels; float32 [N, 64]."""
    edges = np.linspace(0, images.shape[1], _THUMBNAIL_SIDE, endpoint=False).astype(np.int64)
    parts = []
    for start in range(0, len(rows), _BATCH):
        gray = images[rows[start : start + _BATCH]].mean(axis=3, dtype=np.float32)
        parts.append(np.add.reduceat(np.add.reduceat(gray, edges, axis=1), edges, axis=2))
        release_pages(images)
    thumbnails = np.concatenate(parts)
    return _unit(thumbnails - thumbnails.mean(axis=(1, 2), keepdims=True))


def _pixel_vectors(images: Images) -> Vectors:
    """Unit vectors of all pixels; each channel has mean zero, so that the color of the light does not matter."""
    pixels = images.astype(np.float32)
    return _unit(pixels - pixels.mean(axis=(1, 2), keepdims=True))


def _edge_vectors(images: Images) -> Vectors:
    gray = images.mean(axis=3, dtype=np.float32)
    differences = [np.diff(gray, axis=axis).reshape(len(images), -1) for axis in (1, 2)]
    return _unit(np.concatenate(differences, axis=1))


def _unit(values: npt.NDArray[np.float32]) -> Vectors:
    vectors = values.reshape(len(values), -1)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # An image of a single color has no shape to compare, and a small length from rounding.
    unit: Vectors = np.where(lengths > 1, vectors / np.maximum(lengths, 1), 0).astype(np.float32)
    return unit
