"""What the reader of a data format returns: where the encoded images are, and their labels and parts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from image_classifier.errors import ImageError

UNLABELED = -1
MAX_ENCODED_BYTES = 2**28
_RAW_IMAGES_PER_SHARD = 2000

StoredImage = bytes | NDArray[np.uint8] | ImageError
"""An encoded image, or raw pixels (uint8 [H, W] or [H, W, 3]), or the reason why it cannot be read."""


class Shard(Protocol):
    """Images that one worker process reads; small and picklable."""

    @property
    def count(self) -> int:
        """Number of images that `read` yields."""

    def read(self) -> Iterator[StoredImage]:
        """Read the images in order. Raises DataError if the whole shard cannot be read."""


@dataclass(frozen=True)
class ImageSource:
    """All images of a data set, N in total, in the order of the shards; nothing is decoded yet."""

    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    labels: NDArray[np.int64]
    """int64 [N], indices into the classes, or UNLABELED."""
    in_test: NDArray[np.bool_]
    """bool [N]; all False if the data has no test part."""
    in_validation: NDArray[np.bool_]
    """bool [N]; all False if the data has no validation part."""
    names: Sequence[str]
    mirror: bool | None
    """Whether a mirrored image keeps its class; None if the format does not tell."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class FileShard:
    """Image files."""

    paths: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.paths)

    def read(self) -> Iterator[StoredImage]:
        for path in self.paths:
            try:
                if Path(path).exists() and not Path(path).is_file():
                    yield ImageError("it is not a regular file")
                    continue
                with Path(path).open("rb") as file:
                    yield limit_encoded_size(file.read(MAX_ENCODED_BYTES + 1))
            except OSError as error:
                yield ImageError(f"the file cannot be read: {error.strerror}")


@dataclass(frozen=True)
class ByteRangeShard:
    """Encoded images in one file."""

    path: str
    ranges: tuple[tuple[int, int] | str, ...]
    """Offset and size of each, in bytes, or the reason why it cannot be read."""

    @property
    def count(self) -> int:
        return len(self.ranges)

    def read(self) -> Iterator[StoredImage]:
        with Path(self.path).open("rb") as file:
            for place in self.ranges:
                if isinstance(place, str):
                    yield ImageError(place)
                    continue
                offset, size = place
                file.seek(offset)
                yield limit_encoded_size(file.read(min(size, MAX_ENCODED_BYTES + 1)))


@dataclass(frozen=True)
class RawPixelShard:
    """Records of raw pixels in one file: grayscale [H, W], or color planes [3, H, W]."""

    path: str
    offset: int
    count: int
    stride: int
    """Bytes from one record to the next, at least channels * height * width."""
    channels: int
    height: int
    width: int

    def read(self) -> Iterator[StoredImage]:
        length = self.channels * self.height * self.width
        with Path(self.path).open("rb") as file:
            for index in range(self.count):
                file.seek(self.offset + index * self.stride)
                planes = np.frombuffer(file.read(length), np.uint8).reshape(self.channels, self.height, self.width)
                yield planes[0] if self.channels == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))

    def split(self) -> list["RawPixelShard"]:
        """Divide into smaller shards, for several processes."""
        size = _RAW_IMAGES_PER_SHARD
        return [
            replace(self, offset=self.offset + first * self.stride, count=min(size, self.count - first))
            for first in range(0, self.count, size)
        ]


def limit_encoded_size(data: bytes) -> StoredImage:
    """The encoded image, or an error if it is larger than is read into memory."""
    if len(data) > MAX_ENCODED_BYTES:
        return ImageError(f"the encoded image is larger than {MAX_ENCODED_BYTES // 2**20} MiB")
    return data
