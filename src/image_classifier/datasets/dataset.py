"""A prepared data set: decoded images with labels, in a training and a test part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_classifier.images import CROP, FORMATS

RAW_PIXELS = "pixels"
ORIGINAL_FORMATS = (RAW_PIXELS, *FORMATS)


@dataclass(frozen=True)
class DatasetPart:
    """The training or the test part, N images."""

    images: NDArray[np.uint8]
    """uint8 [N, S, S, 3] RGB, memory-mapped and read-only; grayscale images have three equal channels."""
    labels: NDArray[np.int64]
    """int64 [N], indices into the classes."""
    names: Sequence[str]
    """Path or row of each image, for messages and reports."""
    hashes: NDArray[np.uint64]
    """uint64 [N]: first 64 bits of the SHA-256 of each encoded image, or of its raw pixels; the same at any size S."""
    originals: NDArray[np.int32] | None = None
    """int32 [N, 3]: width, height and index into ORIGINAL_FORMATS of each image as stored; None if unknown."""


@dataclass(frozen=True)
class Dataset:
    """A prepared data set."""

    source: str
    """The name, path or URL in the setting `data`, without credentials."""
    digest: str
    """SHA-256, in hexadecimal, of classes, labels and encoded images of both parts; independent of their names."""
    classes: tuple[str, ...]
    image_size: int
    """S, the side of the images in pixels."""
    grayscale: bool
    """Whether every image has three equal channels."""
    mirror: bool
    """Whether a mirrored image may keep its class; the training tests it unless the setting `mirror` says so."""
    train: DatasetPart
    """Includes the validation part, if the data has one."""
    test: DatasetPart
    warnings: tuple[str, ...]
    """Problems found in the data, one line each, with counts."""
    validation_rows: NDArray[np.int64] | None = None
    """int64 [V], sorted rows of `train` that are the data's own validation part; None if it has none."""
    framing: str = CROP
    """How images that are not square were fitted to one: `CROP` or `PAD`."""
