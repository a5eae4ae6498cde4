"""The binary version of CIFAR-10: files of 3,073-byte records, a label and three planes of 32 x 32."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from image_classifier.datasets.idx import slices
from image_classifier.datasets.image_source import ImageSource, Pixels
from image_classifier.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIDE, _CHANNELS = 32, 3
_RECORD = 1 + _CHANNELS * _SIDE * _SIDE
_FILE = re.compile(r"(data|test)_batch(_\d+)?\.bin")


class Batch(NamedTuple):
    """One of the binary files: its name and where its bytes lie."""

    name: str
    path: Path
    offset: int
    size: int


def is_batch(name: str) -> bool:
    return _FILE.fullmatch(name.rsplit("/", 1)[-1]) is not None


def read_batches(batches: Sequence[Batch]) -> ImageSource:
    """The images of the binary files. Raises DataError where one is cut short or has a wrong label."""
    shards: list[Pixels] = []
    labels, names, in_test = [], [], []
    for batch in sorted(batches):
        count, rest = divmod(batch.size, _RECORD)
        if rest:
            raise DataError(f"{batch.name} is damaged: {batch.size:,} bytes are no multiple of {_RECORD:,}")
        records = np.memmap(batch.path, np.uint8, "r", batch.offset, (count, _RECORD))
        own = records[:, 0].astype(np.int64)
        if own.max(initial=0) >= len(CLASSES):
            raise DataError(f"{batch.name} is damaged: it has the label {own.max()}")
        shards += slices(batch.path, batch.offset + 1, count, _RECORD, _CHANNELS, _SIDE, _SIDE)
        labels.append(own)
        names += [f"{batch.name.rsplit('/', 1)[-1]} row {row}" for row in range(count)]
        in_test.append(np.full(count, batch.name.rsplit("/", 1)[-1].startswith("test")))
    return ImageSource(
        CLASSES, tuple(shards), np.concatenate(labels), np.concatenate(in_test), names, True, ()
    )
