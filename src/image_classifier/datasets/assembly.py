"""Assembly of a data set from decoded images: test part, canonical order, digest, arrays on disk."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.cache import HASHES, IMAGES, LABELS, NAMES, ORIGINALS, DatasetMetadata
from image_classifier.datasets.class_names import require_distinct_names
from image_classifier.datasets.data_checks import (
    UsableRows,
    blank_warnings,
    class_balance_warnings,
    drop_untrained_classes,
    duplicate_warnings,
    require_two_images_per_class,
    resize_warnings,
    select_readable,
    untested_class_warnings,
)
from image_classifier.datasets.image_source import ImageSource
from image_classifier.datasets.shard_decoding import DecodedImages
from image_classifier.datasets.split import choose_test_part
from image_classifier.errors import DataError
from image_classifier.text import counted

_CHUNK_BYTES = 2**21


def allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Create a file for a uint8 array. Raises OSError if the disk is full, which would be a signal at a later write."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))


def assemble(
    source: ImageSource,
    decoded: DecodedImages,
    pixels: Path,
    folder: Path,
    size: int,
    test_fraction: float,
    origin: str,
    framing: str,
) -> DatasetMetadata:
    """Write images, labels, names, hashes and originals of all parts into `folder`, in an order by content only.

    pixels: the file that `decode_source` filled, uint8 [N, size, size, 3].
    Raises DataError if the usable images are not enough for training and test; the warnings name all skipped ones.
    """
    rows = select_readable(source, decoded, origin)
    kept = rows.kept
    require_distinct_names(rows.classes, rows.labels[kept], source.in_test[kept], source.in_validation[kept], origin)
    drop_untrained_classes(rows, source.in_test, source.in_validation, origin)
    in_test, in_validation = source.in_test & rows.kept, source.in_validation & rows.kept
    derived = not in_test.any()
    if derived:
        training = np.flatnonzero(rows.kept & ~in_validation)
        in_test[training[choose_test_part(rows.labels[training], decoded.hashes[training], test_fraction)]] = True
        if not in_test.any():
            raise DataError(
                f"{origin} has no class with two different training images, one for the test part; add images"
            )
        if source.in_test.any():
            chosen = counted(int(in_test.sum()), "image")
            rows.warnings.append(f"the test part has no usable images, so {chosen} of the training part replace it")
    if source.in_validation.any() and not in_validation.any():
        rows.warnings.append(
            "the validation part has no usable images, so a random selection of the training part replaces it"
        )
    require_two_images_per_class(rows, origin)
    rows.warnings += untested_class_warnings(rows, in_test, source, decoded.hashes, derived=derived)
    rows.warnings += class_balance_warnings(rows, in_test)
    rows.warnings += blank_warnings(decoded.blank & rows.kept, source.names, framing)
    rows.warnings += duplicate_warnings(rows, in_test, decoded.hashes, source.names)
    rows.warnings += resize_warnings(decoded.originals[rows.kept, :2], size, framing)
    order = _canonical_order(rows, in_test, in_validation, decoded.hashes)
    train, validation = int((~in_test[order]).sum()), int(in_validation.sum())
    labels, hashes = rows.labels[order], decoded.hashes[order]
    digest = _digest(rows.classes, labels, hashes, train, validation)
    _write_images(pixels, order, folder / IMAGES, size)
    np.save(folder / LABELS, labels)
    np.save(folder / HASHES, hashes[:, 0])
    np.save(folder / ORIGINALS, decoded.originals[order])
    (folder / NAMES).write_text(json.dumps([source.names[row] for row in order]))
    mirror = decoded.color if source.mirror is None else source.mirror
    return DatasetMetadata(
        digest, rows.classes, size, not decoded.color, mirror, train, validation, tuple(rows.warnings)
    )


def _canonical_order(
    rows: UsableRows, in_test: NDArray[np.bool_], in_validation: NDArray[np.bool_], hashes: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """By part, class and content, so that the same images give the same arrays regardless of their location."""
    kept = np.flatnonzero(rows.kept)
    keys = (*hashes[kept].T[::-1], rows.labels[kept], in_validation[kept], in_test[kept])
    order: NDArray[np.int64] = kept[np.lexsort(keys)]
    return order


def _digest(
    classes: tuple[str, ...], labels: NDArray[np.int64], hashes: NDArray[np.uint64], train: int, validation: int
) -> str:
    # Without a validation part as in version 0.1, whose packages and evaluations have the digest, too.
    counts = [train, len(labels)] + ([validation] if validation else [])
    digest = hashlib.sha256(json.dumps([classes, *counts]).encode())
    digest.update(labels.astype(">i8").tobytes())
    digest.update(hashes.astype(">u8").tobytes())
    return digest.hexdigest()


def _write_images(pixels: Path, order: NDArray[np.int64], target: Path, size: int) -> None:
    """Copy the rows of `pixels` in this order to an .npy file, in chunks to limit memory."""
    row = size * size * 3
    shape = (len(order), size, size, 3)
    with target.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        os.posix_fallocate(file.fileno(), file.tell(), int(np.prod(shape)))
        step = max(1, _CHUNK_BYTES // row)
        chunk = np.empty((step, row), np.uint8)
        for first in range(0, len(order), step):
            # A new mapping for each chunk, so that pages read before do not count as memory of this process.
            mapped = np.memmap(pixels, np.uint8, "r").reshape(-1, row)
            rows = order[first : first + step]
            # All rows are in range; only with mode "clip" does `take` write to `out` without a copy.
            np.take(mapped, rows, axis=0, out=chunk[: len(rows)], mode="clip")
            file.write(chunk[: len(rows)].data)
