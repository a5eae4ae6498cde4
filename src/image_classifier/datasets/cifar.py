"""Data format: the binary version of CIFAR-10, files of records of one label and three planes of 32 x 32 bytes."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from image_classifier.datasets.image_source import ImageSource, RawPixelShard
from image_classifier.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIDE, _CHANNELS = 32, 3
_RECORD_BYTES = 1 + _CHANNELS * _SIDE * _SIDE
_FILE_NAME = re.compile(r"(data|test)_batch(_\d+)?\.bin")


class BatchFile(NamedTuple):
    """A binary file: its name, and the path, offset and size in bytes of its content."""

    name: str
    path: Path
    offset: int
    size: int


def is_batch_file(name: str) -> bool:
    return _FILE_NAME.fullmatch(name.rsplit("/", 1)[-1]) is not None


def read_batches(files: Sequence[BatchFile]) -> ImageSource:
    """Find the images of binary files. Raises DataError if one is truncated or has an invalid label."""
    shards: list[RawPixelShard] = []
    labels, names, in_test = [], [], []
    for file in sorted(files):
        count, rest = divmod(file.size, _RECORD_BYTES)
        if rest:
            raise DataError(f"{file.name} is damaged: its {file.size:,} bytes are not a multiple of {_RECORD_BYTES:,}")
        records = np.memmap(file.path, np.uint8, "r", file.offset, (count, _RECORD_BYTES))
        file_labels = records[:, 0].astype(np.int64)
        if file_labels.max(initial=0) >= len(CLASSES):
            raise DataError(f"{file.name} is damaged: it has the label {file_labels.max()}")
        shard = RawPixelShard(str(file.path), file.offset + 1, count, _RECORD_BYTES, _CHANNELS, _SIDE, _SIDE)
        shards += shard.split()
        labels.append(file_labels)
        base_name = file.name.rsplit("/", 1)[-1]
        names += [f"{base_name} row {row}" for row in range(count)]
        in_test.append(np.full(count, base_name.startswith("test")))
    no_validation = np.zeros(len(names), dtype=bool)
    return ImageSource(
        CLASSES, tuple(shards), np.concatenate(labels), np.concatenate(in_test), no_validation, names, True, ()
    )
