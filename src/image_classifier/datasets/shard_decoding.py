"""Decode one shard; all that a worker process runs, and it imports no more than that needs."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_classifier.datasets.dataset import ORIGINAL_FORMATS, PIXELS
from image_classifier.datasets.image_source import Item, Shard
from image_classifier.errors import ImageError
from image_classifier.images import Extent, decode_with_original, fit, measure

_BATCH = 256


@dataclass(frozen=True)
class Decoded:
    """What was learnt from the images of a source, or of one shard of it, while decoding them."""

    hashes: NDArray[np.uint64]
    """uint64 [N, 4]: SHA-256 of each image's encoded bytes (or plain pixels) as big-endian words."""
    errors: dict[int, str]
    """Why an image could not be decoded, by its row."""
    colour: bool
    """Whether an image has channels that differ."""
    originals: NDArray[np.int32]
    """int32 [N, 3]: width, height and index into ORIGINAL_FORMATS of each image as it was stored; 0: it failed."""


def decode_shard(shard: Shard, target: Path, first: int, size: int, max_pixels: int) -> Decoded:
    """Write the images of a shard into the file `target` from row `first` on; rows that fail get zeros."""
    digests = bytearray(32 * shard.count)
    errors: dict[int, str] = {}
    originals = np.zeros((shard.count, 3), np.int32)
    colour = False
    items = enumerate(shard.read())
    # A batch is written at once: touching a shared mapping row by row costs a page fault for each, and on a
    # full disk a signal instead of an error.
    batch = np.empty((min(_BATCH, shard.count), size, size, 3), np.uint8)
    with target.open("r+b") as file:
        file.seek(first * size * size * 3)
        while rows := list(islice(items, _BATCH)):
            for place, (index, item) in enumerate(rows):
                try:
                    batch[place], extent, format = decode_item(item, size, max_pixels)
                except ImageError as error:
                    errors[index] = str(error)
                    batch[place] = 0
                    continue
                digests[32 * index : 32 * index + 32] = hashlib.sha256(_buffer(item)).digest()
                originals[index] = (*extent, ORIGINAL_FORMATS.index(format))
            done = batch[: len(rows)]
            colour = colour or not (done == done[..., :1]).all()
            file.write(done.data)
    return Decoded(
        np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 4),
        errors,
        colour,
        originals,
    )


def extents_of(shard: Shard, most: int, max_pixels: int) -> Iterator[Extent]:
    """The sizes of the first images of a shard, of those that can be read."""
    for item in islice(shard.read(), most):
        try:
            yield _extent(item, max_pixels)
        except ImageError:
            # Told of when it is decoded.
            continue


def decode_item(item: Item, size: int, max_pixels: int) -> tuple[NDArray[np.uint8], Extent, str]:
    """The pixels, uint8 [size, size, 3], and the size and format that it had. Raises ImageError."""
    if isinstance(item, ImageError):
        raise item
    if isinstance(item, bytes):
        return decode_with_original(item, size, max_pixels)
    height, width = item.shape[:2]
    return fit(Image.fromarray(item), size), Extent(width, height), PIXELS


def _extent(item: Item, max_pixels: int) -> Extent:
    if isinstance(item, ImageError):
        raise item
    if isinstance(item, bytes):
        return measure(item, max_pixels)
    return Extent(item.shape[1], item.shape[0])


def _buffer(item: Item) -> bytes | memoryview:
    return item if isinstance(item, bytes) else np.asarray(item, np.uint8).data
