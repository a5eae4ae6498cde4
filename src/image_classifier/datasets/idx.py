"""IDX files, the format of the MNIST family: *-images-idx3-ubyte[.gz] and *-labels-idx1-ubyte[.gz]."""

import gzip
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.folder import part_of
from image_classifier.datasets.image_source import ImageSource, Pixels, counted
from image_classifier.errors import DataError

_IMAGES = re.compile(r"(?:(.*)[-.])?images[-.]idx3[-.]ubyte(\.gz)?", re.IGNORECASE)
_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801
_HEADER, _LABELS_HEADER = 16, 8
_ROWS_A_SHARD = 2000
_CHUNK = 2**20


def idx_files(paths: Sequence[str]) -> list[str]:
    """Those of the relative paths that are IDX files of images."""
    return [path for path in paths if _IMAGES.fullmatch(path.rsplit("/", 1)[-1])]


def read_idx(root: Path, images: Sequence[str], scratch: Path, max_data: int) -> ImageSource:
    """The images of IDX files; compressed ones are unpacked into `scratch`. t10k- tells the test part.

    The classes are the numbers. Raises DataError for a damaged file or a missing file of labels.
    """
    shards: list[Pixels] = []
    labels, names, in_test = [], [], []
    for number, name in enumerate(images):
        pixels, count = _read_images(root / name, scratch / f"idx-{number}", max_data)
        own = _read_labels(root / re.sub("images([-.])idx3", r"labels\1idx1", name), count)
        shards += pixels
        labels.append(own)
        names += [f"{name} row {row}" for row in range(count)]
        in_test.append(np.full(count, _part(name) == "test"))
    every = np.concatenate(labels).astype(np.int64)
    classes = tuple(str(label) for label in range(int(every.max(initial=-1)) + 1))
    return ImageSource(classes, tuple(shards), every, np.concatenate(in_test), names, False, ())


def slices(
    path: Path, offset: int, count: int, stride: int, channels: int, height: int, width: int
) -> list[Pixels]:
    """The records of a file of plain pixels, in shards."""
    return [
        Pixels(
            str(path),
            offset + first * stride,
            min(_ROWS_A_SHARD, count - first),
            stride,
            channels,
            height,
            width,
        )
        for first in range(0, count, _ROWS_A_SHARD)
    ]


def _read_images(path: Path, unpacked: Path, max_data: int) -> tuple[list[Pixels], int]:
    if path.suffix == ".gz":
        _gunzip(path, unpacked, max_data)
        plain = unpacked
    else:
        plain = path
    with plain.open("rb") as file:
        header = file.read(_HEADER)
    if len(header) < _HEADER or struct.unpack_from(">I", header)[0] != _IMAGES_MAGIC:
        raise DataError(f"{path} is damaged or no IDX file of images: its first bytes are wrong")
    _, count, height, width = struct.unpack(">4I", header)
    size = plain.stat().st_size
    if height == 0 or width == 0 or size != _HEADER + count * height * width:
        raise DataError(
            f"{path} is damaged: {counted(count, 'image')} of {height} x {width} do not fit {size:,} bytes"
        )
    return slices(plain, _HEADER, count, height * width, 1, height, width), count


def _read_labels(path: Path, count: int) -> NDArray[np.uint8]:
    if not path.exists():
        raise DataError(f"{path} is missing: the labels of the images beside it")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(_LABELS_HEADER + count + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if len(data) < _LABELS_HEADER or struct.unpack_from(">I", data)[0] != _LABELS_MAGIC:
        raise DataError(f"{path} is damaged or no IDX file of labels: its first bytes are wrong")
    told = struct.unpack_from(">I", data, 4)[0]
    if told != count or len(data) != _LABELS_HEADER + count:
        raise DataError(f"{path} does not have one label for each of the {counted(count, 'image')} beside it")
    return np.frombuffer(data, np.uint8, offset=_LABELS_HEADER)


def _gunzip(path: Path, target: Path, max_data: int) -> None:
    total = 0
    with gzip.open(path) as packed, target.open("wb") as plain:
        while chunk := _read(path, packed):
            total += len(chunk)
            if total > max_data:
                raise DataError(f"{path} unpacks to more than {max_data:,} bytes; raise max_data if it may")
            plain.write(chunk)


def _read(path: Path, packed: gzip.GzipFile) -> bytes:
    try:
        return packed.read(_CHUNK)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _part(name: str) -> str | None:
    match = _IMAGES.fullmatch(name.rsplit("/", 1)[-1])
    prefix = (match and match[1]) or ""
    return "test" if prefix.lower() == "t10k" else part_of(prefix)
