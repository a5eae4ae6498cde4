"""Decode one shard. The only module that a worker process imports, so it imports little itself."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_classifier.datasets.dataset import ORIGINAL_FORMATS, RAW_PIXELS
from image_classifier.datasets.image_source import Shard, StoredImage
from image_classifier.errors import ImageError
from image_classifier.images import (
    CROP,
    PAD,
    PAD_GRAY,
    Dimensions,
    decode_with_metadata,
    fit_to_square,
    read_dimensions,
)
from image_classifier.text import one_line

_BATCH_IMAGES = 256


@dataclass(frozen=True)
class DecodedImages:
    """Properties of the N images of a source, or of one shard of it; the pixels are in a file."""

    hashes: NDArray[np.uint64]
    """uint64 [N, 4]: SHA-256 of the encoded image, or of its raw pixels, as big-endian words."""
    errors: dict[int, str]
    """Reason why an image could not be decoded, by its row."""
    color: bool
    """Whether an image has channels that differ."""
    originals: NDArray[np.int32]
    """int32 [N, 3]: width, height and index into ORIGINAL_FORMATS of each image as stored; 0 if it was not decoded."""
    blank: NDArray[np.bool_]
    """bool [N]: whether all pixels of a decoded image are equal, without padding."""


def decode_shard(
    shard: Shard, target: Path, first: int, size: int, max_pixels: int, framing: str = CROP
) -> DecodedImages:
    """Write a shard's images to the file `target` from row `first` on; an image that cannot be decoded is all zeros."""
    digests = bytearray(32 * shard.count)
    errors: dict[int, str] = {}
    originals = np.zeros((shard.count, 3), np.int32)
    blank = np.zeros(shard.count, np.bool_)
    color = False
    images = enumerate(shard.read())
    # Not through a shared mapping: that costs a page fault per row, and a full disk raises a signal, not an error.
    batch = np.empty((min(_BATCH_IMAGES, shard.count), size, size, 3), np.uint8)
    with target.open("r+b") as file:
        file.seek(first * size * size * 3)
        while rows := list(islice(images, _BATCH_IMAGES)):
            for place, (index, image) in enumerate(rows):
                try:
                    batch[place], dimensions, format = decode_stored_image(image, size, max_pixels, framing)
                except ImageError as error:
                    errors[index] = str(error)
                    batch[place] = 0
                    continue
                digests[32 * index : 32 * index + 32] = content_digest(image)
                originals[index] = (*dimensions, ORIGINAL_FORMATS.index(format))
            done = batch[: len(rows)]
            color = color or not (done == done[..., :1]).all()
            for place in _blank(done, framing):
                blank[rows[place][0]] = True
            file.write(done.data)
    return DecodedImages(
        np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 4), errors, color, originals, blank
    )


def _blank(images: NDArray[np.uint8], framing: str) -> list[int]:
    """The places of the images, uint8 [N, S, S, 3], of which all pixels are equal, without padding."""
    middle = images.shape[1] // 2

    def is_blank(images: NDArray[np.uint8], rows: slice) -> NDArray[np.bool_]:
        same = (images[:, rows] == images[:, middle : middle + 1, middle : middle + 1]).all(axis=3)
        if framing == PAD:
            same |= (images[:, rows] == PAD_GRAY).all(axis=3)
        return np.asarray(same.all(axis=(1, 2)))

    # Most images differ in the middle row already, which takes no time to compare.
    candidates = np.flatnonzero(is_blank(images, slice(middle, middle + 1)))
    return [place for place in candidates.tolist() if is_blank(images[place : place + 1], slice(None))[0]]


def sample_dimensions(shard: Shard, count: int, max_pixels: int) -> Iterator[Dimensions]:
    """Yield the dimensions of a shard's first `count` images, except those that cannot be read."""
    for image in islice(shard.read(), count):
        try:
            dimensions = _dimensions(image, max_pixels)
        except ImageError:
            # Reported when it is decoded.
            continue
        yield dimensions


def decode_stored_image(
    image: StoredImage, size: int, max_pixels: int, framing: str = CROP
) -> tuple[NDArray[np.uint8], Dimensions, str]:
    """Returns the pixels, uint8 [size, size, 3], the stored dimensions and the format, one of ORIGINAL_FORMATS.

    Raises ImageError, also instead of an exception that the decoder should not raise: one image stops no others.
    """
    with _unforeseen_errors():
        if isinstance(image, ImageError):
            raise image
        if isinstance(image, bytes):
            pixels, dimensions, format = decode_with_metadata(image, size, max_pixels, framing=framing)
            if format not in ORIGINAL_FORMATS:
                raise ImageError(f"the format {format} is not accepted")
            return pixels, dimensions, format
        height, width = image.shape[:2]
        return fit_to_square(Image.fromarray(image), size, framing), Dimensions(width, height), RAW_PIXELS


@contextmanager
def _unforeseen_errors() -> Iterator[None]:
    """Convert an exception of one image to an ImageError that names it."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"unexpected {type(error).__name__}: {one_line(error)}") from error


def _dimensions(image: StoredImage, max_pixels: int) -> Dimensions:
    with _unforeseen_errors():
        if isinstance(image, ImageError):
            raise image
        if isinstance(image, bytes):
            return read_dimensions(image, max_pixels)
        return Dimensions(image.shape[1], image.shape[0])


def content_digest(image: StoredImage) -> bytes:
    """SHA-256 of an encoded image, or of raw pixels."""
    return hashlib.sha256(image if isinstance(image, bytes) else np.asarray(image, np.uint8).data).digest()
