"""What data preparation hands on: decoded images with labels, in a training and a test part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_classifier.images import FORMATS

PIXELS = "pixels"
ORIGINAL_FORMATS = (PIXELS, *FORMATS)
"""What an image was stored as: plain pixels, or an encoded image."""


@dataclass(frozen=True)
class DatasetPart:
    """Images of one part; row i of all belongs together."""

    images: NDArray[np.uint8]
    """uint8 [N, S, S, 3] RGB, memory-mapped and read-only; grey images have three equal channels."""
    labels: NDArray[np.int64]
    """int64 [N], indices into the classes."""
    names: Sequence[str]
    """Where each image came from, for messages and reports."""
    originals: NDArray[np.int32] | None = None
    """int32 [N, 3]: width, height and index into ORIGINAL_FORMATS of each image as it was stored; None: not known."""


@dataclass(frozen=True)
class Dataset:
    """A prepared data set."""

    source: str
    """The name or address it was asked for by, without credentials."""
    digest: str
    """SHA-256, in hexadecimal, of classes, labels and encoded images of both parts, not of their names."""
    classes: tuple[str, ...]
    image_size: int
    """S, the side of the images in pixels."""
    grey: bool
    """Whether every image has three equal channels."""
    mirror: bool
    """Whether a mirrored image keeps its class."""
    train: DatasetPart
    test: DatasetPart
    warnings: tuple[str, ...]
    """What was found amiss, one line each, with counts."""
