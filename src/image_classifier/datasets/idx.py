"""Data format: IDX files of the MNIST family, *-images-idx3-ubyte[.gz] and *-labels-idx1-ubyte[.gz]."""

import gzip
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.image_source import UNLABELED, ImageSource, RawPixelShard
from image_classifier.datasets.layout import part_from_name, resolve_evaluation
from image_classifier.errors import DataError
from image_classifier.text import counted, listed

_IMAGES = re.compile(r"(?:(.*)[-.])?images[-.]idx3[-.]ubyte(\.gz)?", re.IGNORECASE)
_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801
_IMAGES_HEADER_BYTES, _LABELS_HEADER_BYTES = 16, 8
_CHUNK_BYTES = 2**20
_UNKNOWN = 255
"""The label of an image without one in many data sets, -1, in a byte without sign."""


def idx_files(paths: Sequence[str]) -> list[str]:
    """Returns the relative paths that are IDX files of images."""
    return [path for path in paths if _IMAGES.fullmatch(path.rsplit("/", 1)[-1])]


def read_idx(root: Path, images: Sequence[str], scratch: Path, max_data: int) -> ImageSource:
    """Find the images of IDX files; compressed ones are unpacked into `scratch`. t10k- marks the test part.

    The classes are the label numbers. Raises DataError if a file is damaged or the file with the labels is missing.
    """
    shards: list[RawPixelShard] = []
    labels, names, parts = [], [], []
    used = resolve_evaluation(_part(name) or "" for name in images)
    for number, name in enumerate(images):
        shard = _read_images(root / name, scratch / f"idx-{number}", max_data)
        shards += shard.split()
        labels.append(_read_labels(root / re.sub("images([-.])idx3", r"labels\1idx1", name), shard.count))
        names += [f"{name} row {row}" for row in range(shard.count)]
        parts.append(np.full(shard.count, used[_part(name) or ""]))
    all_labels = np.concatenate(labels).astype(np.int64)
    part = np.concatenate(parts)
    warnings = []
    unknown = all_labels == _UNKNOWN
    # With 255 classes or more it is one of them.
    if unknown.any() and (all_labels != _UNKNOWN - 1).all():
        all_labels[unknown] = UNLABELED
        shown = listed([names[row] for row in np.flatnonzero(unknown)])
        unlabeled = counted(int(unknown.sum()), "image")
        warnings.append(f"{unlabeled} without a class, with the label {_UNKNOWN} (-1 in a byte): {shown}")
    classes = tuple(str(label) for label in range(int(all_labels.max(initial=-1)) + 1))
    return ImageSource(
        classes, tuple(shards), all_labels, part == "test", part == "validation", names, False, tuple(warnings)
    )


def _read_images(path: Path, unpacked: Path, max_data: int) -> RawPixelShard:
    plain = path
    if path.suffix == ".gz":
        _gunzip(path, unpacked, max_data)
        plain = unpacked
    with plain.open("rb") as file:
        header = file.read(_IMAGES_HEADER_BYTES)
    if len(header) < _IMAGES_HEADER_BYTES or struct.unpack_from(">I", header)[0] != _IMAGES_MAGIC:
        raise DataError(f"{path} is damaged or not an IDX file of images: its first bytes are wrong")
    _, count, height, width = struct.unpack(">4I", header)
    size = plain.stat().st_size
    if height == 0 or width == 0 or size != _IMAGES_HEADER_BYTES + count * height * width:
        raise DataError(
            f"{path} is damaged: it has {size:,} bytes, which is not the size of {counted(count, 'image')} of "
            f"{height} x {width} pixels"
        )
    return RawPixelShard(str(plain), _IMAGES_HEADER_BYTES, count, height * width, 1, height, width)


def _read_labels(path: Path, count: int) -> NDArray[np.uint8]:
    if not path.exists():
        raise DataError(f"{path}, the file with the labels, is missing")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(_LABELS_HEADER_BYTES + count + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if len(data) < _LABELS_HEADER_BYTES or struct.unpack_from(">I", data)[0] != _LABELS_MAGIC:
        raise DataError(f"{path} is damaged or not an IDX file of labels: its first bytes are wrong")
    stated_count = struct.unpack_from(">I", data, 4)[0]
    if stated_count != count or len(data) != _LABELS_HEADER_BYTES + count:
        raise DataError(f"{path} does not have one label for each of the {counted(count, 'image')}")
    return np.frombuffer(data, np.uint8, offset=_LABELS_HEADER_BYTES)


def _gunzip(path: Path, target: Path, max_data: int) -> None:
    total = 0
    with gzip.open(path) as packed, target.open("wb") as plain:
        while chunk := _read_chunk(path, packed):
            total += len(chunk)
            if total > max_data:
                raise DataError(f"{path} unpacks to more than {max_data:,} bytes; raise max_data to allow it")
            plain.write(chunk)


def _read_chunk(path: Path, packed: gzip.GzipFile) -> bytes:
    try:
        return packed.read(_CHUNK_BYTES)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _part(name: str) -> str | None:
    match = _IMAGES.fullmatch(name.rsplit("/", 1)[-1])
    prefix = (match and match[1]) or ""
    return "test" if prefix.lower() == "t10k" else part_from_name(prefix)
