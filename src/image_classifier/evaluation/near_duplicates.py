"""Near duplicates among photos: neighbors by the embeddings of a backbone, whose edges match once they are aligned.

Embeddings alone do not tell two photos of similar things from one photo saved twice: of 2,632 photos of clothes, pairs
of different jeans have cosines as high as crops of one photo. So they only propose candidates, which are then compared
edge by edge. Of the candidates among these photos, those that show the same photo have a correlation of at least 0.99,
and all others at most 0.93. Recompressed (JPEG quality 15), brightened, gray, resized (64 pixels) and mirrored copies
have at least 0.96, as have crops to at least 90 % of the side; of smaller ones, some are found and some have only 0.8.
Rotated copies are not found.

Photos of a fixed camera share the background, so they have up to 0.99, too. They differ in places: with objects of 9 to
20 % of the side before five backgrounds, none of 91 such pairs agrees everywhere; with smaller objects, 16 of 140 do.
Of 248 copies, changed as above, all but one crop agree.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from image_classifier.package import Images

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_NEIGHBORS = 5
_BLOCK_PRODUCTS = 10_000_000  # in memory at a time
_MIN_COSINE = 0.5
_MAX_CANDIDATES = 2_000  # about ten seconds of work
_SIDE, _MIN_CORRELATION = 40, 0.95
_COARSE_SIDE, _MIN_COARSE_CORRELATION = 20, 0.85  # excludes most candidates in a tenth of the time
_MIN_CROP = 0.7  # of the side
_WINDOW, _MIN_LOCAL_CORRELATION = 5, 0.7  # of a square in which two images must agree; its side in pixels
_MIN_LOCAL_ENERGY = 0.5  # of the mean; the edges of smoother squares do not survive recompression
_DISTANCE = 2  # pixels between the values whose difference is an edge; at 1, a shift by half a pixel matters
_DEVIATION_FLOOR = 0.01  # of the median: features that hardly vary are not blown up


class Neighbors(NamedTuple):
    """The nearest references of each query."""

    rows: Rows
    """int64 [N]: the reference with the highest cosine; -1 if there is none."""
    cosines: Vectors
    """float32 [N]: that cosine."""
    distances: Floats
    """float64 [N]: mean Euclidean distance to the five nearest references, or to all if there are fewer."""


def standardize(embeddings: Vectors, references: Vectors) -> Vectors:
    """Embeddings, float32 [N, E], scaled so that every feature of the references has mean 0 and variance 1."""
    deviation = references.std(axis=0)
    floor = _DEVIATION_FLOOR * float(np.median(deviation)) or 1.0
    scaled: Vectors = ((embeddings - references.mean(axis=0)) / np.maximum(deviation, floor)).astype(np.float32)
    return scaled


def find_neighbors(queries: Vectors, references: Vectors, *, same: bool = False) -> Neighbors:
    """The neighbors of float32 [N, E] among float32 [M, E]; with `same`, which are equal, none is its own neighbor."""
    count = len(references) - same
    rows, cosines = np.full(len(queries), -1, np.int64), np.zeros(len(queries), np.float32)
    distances = np.zeros(len(queries))
    if count < 1:
        return Neighbors(rows, cosines, distances)
    squares = np.square(references).sum(axis=1)
    lengths = np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny))
    nearest = min(_NEIGHBORS, count)
    block = max(1, _BLOCK_PRODUCTS // len(references))
    for start in range(0, len(queries), block):
        chunk = queries[start : start + block]
        own = np.arange(len(chunk)), np.arange(start, start + len(chunk))
        chunk_squares = np.square(chunk).sum(axis=1, keepdims=True)
        products = chunk @ references.T
        away = np.maximum(chunk_squares + squares - 2 * products, 0)
        products /= lengths
        if same:
            products[own], away[own] = -np.inf, np.inf
        best = products.argmax(axis=1)
        chunk_lengths = np.sqrt(np.maximum(chunk_squares[:, 0], np.finfo(np.float32).tiny))
        rows[start : start + block] = best
        cosines[start : start + block] = products[own[0], best] / chunk_lengths
        closest = np.partition(away, nearest - 1, axis=1)[:, :nearest]
        distances[start : start + block] = np.sqrt(closest).mean(axis=1)
    return Neighbors(rows, cosines, distances)


def same_photos(images: Images, rows: Rows, others: Images, other_rows: Rows, neighbors: Neighbors) -> Rows:
    """Indices of the neighbors that show the same photo: int64, sorted.

    Query i of the neighbors is `images[rows[i]]`, and its reference j is `others[other_rows[j]]`; both are uint8
    [_, S, S, 3]. At most 2,000 candidates are compared, those with the highest cosine.
    """
    order = np.argsort(-neighbors.cosines, kind="stable")[:_MAX_CANDIDATES]
    candidates = order[(neighbors.cosines[order] >= _MIN_COSINE) & (neighbors.rows[order] >= 0)]
    found = [
        int(index)
        for index in np.sort(candidates)
        if shows_the_same(images[rows[index]], others[other_rows[neighbors.rows[index]]])
    ]
    return np.array(found, np.int64)


def shows_the_same(image: Images, other: Images) -> bool:
    """Whether two images, uint8 [S, S, 3], are the same photo, or one is a part of the other, perhaps mirrored."""
    if np.array_equal(image, other):
        return True
    gray, other_gray = (Image.fromarray(np.ascontiguousarray(each)).convert("L") for each in (image, other))
    if _align(gray, other_gray, _COARSE_SIDE).correlation < _MIN_COARSE_CORRELATION:
        return False
    aligned = _align(gray, other_gray, _SIDE)
    return aligned.correlation >= _MIN_CORRELATION and _agree_everywhere(aligned.part, aligned.whole)


class _Alignment(NamedTuple):
    """The edges of two images where they match best, both float32 [2, H, W]."""

    correlation: float
    part: Vectors
    whole: Vectors


def _agree_everywhere(edges: Vectors, other_edges: Vectors) -> bool:
    """Whether aligned edges correlate in every square that has some, so that no object is in only one of the images."""
    products, energies, other_energies = (
        _window_sums((one * other).sum(axis=0))
        for one, other in ((edges, other_edges), (edges, edges), (other_edges, other_edges))
    )
    gain = energies.sum() / max(float(other_energies.sum()), 1.0)
    largest = np.maximum(energies, gain * other_energies)
    correlations = products / np.sqrt(np.maximum(energies * other_energies, 1))
    return bool((correlations[largest >= _MIN_LOCAL_ENERGY * largest.mean()] >= _MIN_LOCAL_CORRELATION).all())


def _window_sums(values: Vectors) -> Floats:
    """Sums of [H, W] over each square of `_WINDOW` cells."""
    sums = np.pad(values.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    rows: Floats = sums[_WINDOW:] - sums[:-_WINDOW]
    return rows[:, _WINDOW:] - rows[:, :-_WINDOW]


def _align(image: Image.Image, other: Image.Image, side: int) -> _Alignment:
    """Find the highest correlation of the edges of one grayscale image, at any size, with a part of the other one."""
    grid = side - _DISTANCE
    edges, other_edges = _edges(image, side), _edges(other, side)
    mirrored = _edges(ImageOps.mirror(image), side)
    cells, places = _areas(side)
    every = np.stack([edges, other_edges, mirrored])
    spectra = np.fft.rfft2(every)
    energies = np.square(every).sum(axis=2)
    covered = np.fft.irfft2(cells * np.fft.rfft2(energies[:, :1]), s=(grid, grid))
    parts, wholes = [0, 1, 2, 1], [1, 0, 1, 2]
    products = (np.conj(spectra[parts]) * spectra[wholes][:, :1]).sum(axis=2)
    norms = np.maximum(covered[wholes], 1) * np.maximum(energies[parts].sum(axis=(2, 3), keepdims=True), 1)
    correlations = np.where(places, np.fft.irfft2(products, s=(grid, grid)) / np.sqrt(norms), -1)
    pair, size, row, column = (int(each) for each in np.unravel_index(correlations.argmax(), correlations.shape))
    length = _sizes(side)[size] - _DISTANCE
    return _Alignment(
        float(correlations[pair, size, row, column]),
        every[parts[pair], size, :, :length, :length],
        every[wholes[pair], 0, :, row : row + length, column : column + length],
    )


def _edges(gray: Image.Image, side: int) -> Vectors:
    """Vertical and horizontal differences at each size, padded: float32 [sizes, 2, side - 2, side - 2]."""
    sizes, grid = _sizes(side), side - _DISTANCE
    edges = np.zeros((len(sizes), 2, grid, grid), np.float32)
    inner = slice(_DISTANCE // 2, -_DISTANCE // 2)
    for padded, size in zip(edges, sizes, strict=True):
        values = np.asarray(gray.resize((size, size), Image.Resampling.BOX), np.float32)
        cells = size - _DISTANCE
        padded[0, :cells, :cells] = values[_DISTANCE:, inner] - values[:-_DISTANCE, inner]
        padded[1, :cells, :cells] = values[inner, _DISTANCE:] - values[inner, :-_DISTANCE]
    return edges


def _sizes(side: int) -> range:
    """The whole image, and as a part of the other one."""
    return range(side, round(_MIN_CROP * side) - 1, -1)


@cache
def _areas(side: int) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.bool_]]:
    """For each size: the conjugate spectrum of a mask of its cells, and the places of its first cell."""
    sizes, grid = _sizes(side), side - _DISTANCE
    cells, places = np.zeros((2, len(sizes), grid, grid), np.float32)
    for index, size in enumerate(sizes):
        cells[index, : size - _DISTANCE, : size - _DISTANCE] = 1
        places[index, : side - size + 1, : side - size + 1] = 1
    return np.conj(np.fft.rfft2(cells)).astype(np.complex64), places > 0
