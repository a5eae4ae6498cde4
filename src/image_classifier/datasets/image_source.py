"""What a format's reader finds: where the encoded images lie and what is known of each, nothing decoded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from image_classifier.errors import ImageError

NO_CLASS = -1
LARGEST_ENCODED = 2**28
"""Bytes of the largest encoded image that is read into memory."""

Item = bytes | NDArray[np.uint8] | ImageError
"""An encoded image, or pixels (uint8 [H, W] or [H, W, 3]), or why it cannot be had."""


class Shard(Protocol):
    """Some images that a worker process reads by itself; small and picklable."""

    @property
    def count(self) -> int:
        """How many items `read` yields."""

    def read(self) -> Iterator[Item]:
        """Read the images one after the other; raises DataError where the whole shard cannot be read."""


@dataclass(frozen=True)
class ImageSource:
    """All images of a data set, in the order of the shards. N is the sum of the shards' counts."""

    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    labels: NDArray[np.int64]
    """int64 [N], indices into the classes or NO_CLASS."""
    in_test: NDArray[np.bool_]
    """bool [N]; all False where the data has no test part."""
    names: Sequence[str]
    mirror: bool | None
    """Whether a mirrored image keeps its class; None: not known from the format."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """Image files."""

    paths: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.paths)

    def read(self) -> Iterator[Item]:
        for path in self.paths:
            if Path(path).exists() and not Path(path).is_file():
                yield ImageError("it is no regular file")
                continue
            try:
                with Path(path).open("rb") as file:
                    yield _bounded(file.read(LARGEST_ENCODED + 1))
            except OSError as error:
                yield ImageError(f"the file cannot be read: {error.strerror}")


@dataclass(frozen=True)
class Ranges:
    """Encoded images that lie in one file."""

    path: str
    spans: tuple[tuple[int, int], ...]
    """Offset and size of each, in bytes."""

    @property
    def count(self) -> int:
        return len(self.spans)

    def read(self) -> Iterator[Item]:
        with Path(self.path).open("rb") as file:
            for offset, size in self.spans:
                file.seek(offset)
                yield _bounded(file.read(min(size, LARGEST_ENCODED + 1)))


@dataclass(frozen=True)
class Pixels:
    """Records of plain pixels in one file: grey [H, W], or colour in planes [3, H, W]."""

    path: str
    offset: int
    count: int
    stride: int
    """Bytes from one record to the next, at least channels * height * width."""
    channels: int
    height: int
    width: int

    def read(self) -> Iterator[Item]:
        length = self.channels * self.height * self.width
        with Path(self.path).open("rb") as file:
            for index in range(self.count):
                file.seek(self.offset + index * self.stride)
                record = np.frombuffer(file.read(length), np.uint8)
                planes = record.reshape(self.channels, self.height, self.width)
                yield planes[0] if self.channels == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names and how many more there are, for a message."""
    text = ", ".join(str(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most:,} more"


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 image", "2,000 images", "2 classes"."""
    if count != 1:
        noun += "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}"


def _bounded(data: bytes) -> Item:
    if len(data) > LARGEST_ENCODED:
        return ImageError(f"the file has more than {LARGEST_ENCODED // 2**20} MiB")
    return data
