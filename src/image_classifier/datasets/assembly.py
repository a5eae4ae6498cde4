"""From decoded images to a data set: checks, test part, canonical order, digest, arrays on disk."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.cache import IMAGES, LABELS, NAMES, ORIGINALS, Facts
from image_classifier.datasets.image_source import ImageSource, counted, listed
from image_classifier.datasets.shard_decoding import Decoded
from image_classifier.datasets.split import choose_test
from image_classifier.errors import DataError

_CHUNK_BYTES = 2**21


@dataclass
class _Rows:
    """The rows that are left, and what was found amiss while others were taken out."""

    kept: NDArray[np.bool_]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    warnings: list[str]


def allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Make a file for uint8 of this shape. A full disk raises OSError here and not a signal later."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))


def assemble(
    source: ImageSource,
    decoded: Decoded,
    pixels: Path,
    folder: Path,
    size: int,
    test_fraction: float,
    origin: str,
) -> Facts:
    """Write images, labels and names of both parts into `folder`, in an order that the content alone decides.

    pixels: the file that `decode_source` filled, uint8 [N, size, size, 3].
    Raises DataError where what is left is not enough to learn from; everything left out is in the warnings.
    """
    rows = _usable(source, decoded, origin)
    in_test = source.in_test & rows.kept
    made = not in_test.any()
    if made:
        in_test = np.zeros(len(rows.kept), dtype=bool)
        chosen = np.flatnonzero(rows.kept)
        in_test[chosen[choose_test(rows.labels[chosen], decoded.hashes[chosen], test_fraction)]] = True
        if not in_test.any():
            raise DataError(f"{origin}: each class has one image, so none is left for the test; add images")
    if not (rows.kept & ~in_test).any():
        raise DataError(f"{origin} has a test part but no images to train on")
    _drop_untrained(rows, in_test, origin)
    in_test &= rows.kept
    _refuse_single(rows, origin)
    rows.warnings += _untested(rows, in_test, made)
    rows.warnings += _duplicates(rows, in_test, decoded.hashes, source.names)
    rows.warnings += _resized(decoded.originals[rows.kept, :2], size)
    order = _canonical_order(rows, in_test, decoded.hashes)
    train = int((~in_test[order]).sum())
    labels = rows.labels[order]
    digest = _digest(rows.classes, labels, decoded.hashes[order], train)
    _gather(pixels, order, folder / IMAGES, size)
    np.save(folder / LABELS, labels)
    np.save(folder / ORIGINALS, decoded.originals[order])
    (folder / NAMES).write_text(json.dumps([source.names[row] for row in order]))
    mirror = decoded.colour if source.mirror is None else source.mirror
    return Facts(digest, rows.classes, size, not decoded.colour, mirror, train, tuple(rows.warnings))


def _usable(source: ImageSource, decoded: Decoded, origin: str) -> _Rows:
    total, failed = len(source.labels), len(decoded.errors)
    warnings = list(source.warnings)
    if failed:
        told = [f"{source.names[row]} ({reason})" for row, reason in decoded.errors.items()]
        if 2 * failed > total:
            raise DataError(f"{origin}: {failed:,} of {total:,} images cannot be read: {listed(told)}")
        warnings.append(f"{counted(failed, 'image')} left out, cannot be read: {listed(told)}")
    kept = source.labels >= 0
    kept[list(decoded.errors)] = False
    if not kept.any():
        raise DataError(
            f"{origin}: no image has a label that can be used; {'; '.join(warnings) or 'it is empty'}"
        )
    return _Rows(kept, source.labels.copy(), source.classes, warnings)


def _drop_untrained(rows: _Rows, in_test: NDArray[np.bool_], origin: str) -> None:
    """Leave out the classes that have no image in train, and number the others anew."""
    count = len(rows.classes)
    trained = np.bincount(rows.labels[rows.kept & ~in_test], minlength=count) > 0
    tested = np.bincount(rows.labels[rows.kept & in_test], minlength=count)
    empty = [
        name for name, some, tests in zip(rows.classes, trained, tested, strict=True) if not some | tests
    ]
    untrained = [name for name, some, n in zip(rows.classes, trained, tested, strict=True) if n and not some]
    if empty:
        rows.warnings.append(f"{counted(len(empty), 'class')} left out, having no images: {listed(empty)}")
    if untrained:
        rows.warnings.append(
            f"{counted(len(untrained), 'class')} left out with {counted(sum(tested[~trained]), 'image')} "
            f"of test, having none to train on: {listed(untrained)}"
        )
    present = [name for name, some in zip(rows.classes, trained, strict=True) if some]
    if len(present) < 2:
        raise DataError(f"{origin} has images of one class only ({listed(present)}); at least two are needed")
    renumbered = np.where(trained, np.cumsum(trained) - 1, -1)
    rows.labels[rows.kept] = renumbered[rows.labels[rows.kept]]
    rows.kept &= rows.labels >= 0
    rows.classes = tuple(present)


def _refuse_single(rows: _Rows, origin: str) -> None:
    counts = np.bincount(rows.labels[rows.kept], minlength=len(rows.classes))
    single = [name for name, n in zip(rows.classes, counts, strict=True) if n == 1]
    if single:
        raise DataError(
            f"{origin}: {counted(len(single), 'class')} of one image, which cannot be both learnt and tested: "
            f"{listed(single)}; add images of it or leave it out"
        )


def _untested(rows: _Rows, in_test: NDArray[np.bool_], made: bool) -> list[str]:
    tests = np.bincount(rows.labels[in_test], minlength=len(rows.classes))
    untested = [name for name, n in zip(rows.classes, tests, strict=True) if not n]
    if not untested:
        return []
    reason = "their images being all the same" if made else "the test part having none of them"
    return [f"{counted(len(untested), 'class')} never tested, {reason}: {listed(untested)}"]


def _duplicates(
    rows: _Rows, in_test: NDArray[np.bool_], hashes: NDArray[np.uint64], names: Sequence[str]
) -> list[str]:
    kept = np.flatnonzero(rows.kept)
    order = kept[np.lexsort((*hashes[kept].T[::-1],))]
    same = (hashes[order[1:]] == hashes[order[:-1]]).all(axis=1)
    if not same.any():
        return []
    group = np.concatenate([[0], np.cumsum(~same)])
    warnings = []
    tests = np.bincount(group, weights=in_test[order])
    sizes = np.bincount(group)
    leaked = order[((tests > 0) & (tests < sizes))[group] & in_test[order]]
    if len(leaked):
        told = listed([names[row] for row in np.sort(leaked)])
        warnings.append(
            f"{counted(len(leaked), 'test image')} identical to training images, so it flatters: {told}"
        )
    labels = rows.labels[order]
    first = np.concatenate([[True], ~same])
    differs = np.bincount(group, weights=labels != labels[first][group]) > 0
    contradictory = order[differs[group]]
    if len(contradictory):
        told = listed([names[row] for row in np.sort(contradictory)])
        warnings.append(
            f"{counted(len(contradictory), 'image')} identical to images of another class: {told}"
        )
    return warnings


def _resized(extents: NDArray[np.int32], size: int) -> list[str]:
    """extents: int32 [N, 2], width and height of the images as they were stored."""
    (width, height), (widest, highest) = extents.min(axis=0), extents.max(axis=0)
    if (width, height, widest, highest) == (size,) * 4:
        return []
    oblong = int((extents[:, 0] != extents[:, 1]).sum())
    cut = f"; {counted(oblong, 'image')} not square, of which the middle is used" if oblong else ""
    resized = counted(len(extents), "image")
    if (width, height) == (widest, highest):
        return [f"{resized} resized from {width} x {height} to {size} x {size}{cut}"]
    return [
        f"{resized} of mixed sizes, {width} to {widest} wide and {height} to {highest} high, brought to "
        f"{size} x {size} (set image_size for another){cut}"
    ]


def _canonical_order(
    rows: _Rows, in_test: NDArray[np.bool_], hashes: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """By part, class and content, so that the same images give the same arrays wherever they lie."""
    kept = np.flatnonzero(rows.kept)
    keys = (*hashes[kept].T[::-1], rows.labels[kept], in_test[kept])
    order: NDArray[np.int64] = kept[np.lexsort(keys)]
    return order


def _digest(
    classes: tuple[str, ...], labels: NDArray[np.int64], hashes: NDArray[np.uint64], train: int
) -> str:
    digest = hashlib.sha256(json.dumps([classes, train, len(labels)]).encode())
    digest.update(labels.astype(">i8").tobytes())
    digest.update(hashes.astype(">u8").tobytes())
    return digest.hexdigest()


def _gather(pixels: Path, order: NDArray[np.int64], target: Path, size: int) -> None:
    """Copy the rows of `pixels` in this order, in chunks that are mapped one at a time."""
    row = size * size * 3
    shape = (len(order), size, size, 3)
    with target.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        os.posix_fallocate(file.fileno(), file.tell(), int(np.prod(shape)))
        step = max(1, _CHUNK_BYTES // row)
        chunk = np.empty((step, row), np.uint8)
        for first in range(0, len(order), step):
            # Mapped anew for each chunk, so that what was read before does not count as our memory.
            mapped = np.memmap(pixels, np.uint8, "r").reshape(-1, row)
            rows = order[first : first + step]
            # Rows are in range; "clip" is the mode in which take writes to `out` without a copy.
            np.take(mapped, rows, axis=0, out=chunk[: len(rows)], mode="clip")
            file.write(chunk[: len(rows)].data)
