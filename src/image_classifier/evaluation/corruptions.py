"""Common image corruptions, each at a moderate strength, to measure robustness.

After Hendrycks & Dietterich 2019 (arXiv:1903.12261), at strengths that leave an image easy to recognize for a person.
Lengths are fractions of the side, so that they mean the same at every image size.
"""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from image_classifier.images import decode
from image_classifier.package import Images, batch_images

_SEED = 0

Transform = Callable[[Images, np.random.Generator], Images]
"""From uint8 [N, S, S, 3] to the same shape; random numbers are drawn from the generator, image by image."""


@dataclass(frozen=True)
class Corruption:
    """A corruption at one strength. The name includes the strength, and evaluations and metrics are stored by it."""

    name: str
    transform: Transform

    def apply(self, images: Images) -> Images:
        """Corrupt uint8 [N, S, S, 3]; the result for image i does not depend on the number of images after it."""
        return self.transform(images, self._random())

    def batches(self, images: Images, rows: npt.NDArray[np.int64]) -> Iterator[Images]:
        """Yield what `apply` returns for these rows of the images, which may be memory-mapped, a few at a time."""
        size, random = batch_images(images.shape[1]), self._random()
        for start in range(0, len(rows), size):
            yield self.transform(images[rows[start : start + size]], random)

    def _random(self) -> np.random.Generator:
        return np.random.default_rng([_SEED, *self.name.encode()])


def _jpeg(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return decode(buffer.getvalue(), side, side * side)


def _low_resolution(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    small = round(0.7 * side)
    buffer = io.BytesIO()
    image.resize((small, small), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return decode(buffer.getvalue(), side, side * side)


def _blur(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    return np.asarray(image.filter(ImageFilter.GaussianBlur(0.02 * side)))


def _for_each(change: Callable[[Image.Image, int], npt.NDArray[np.uint8]]) -> Transform:
    def transform(images: Images, _: np.random.Generator) -> Images:
        return np.stack([change(Image.fromarray(image), images.shape[1]) for image in images])

    return transform


def _noise(images: Images, random: np.random.Generator) -> Images:
    # The same noise in all channels: grayscale images stay grayscale.
    noise = random.normal(0, 0.05 * 255, (*images.shape[:3], 1)).astype(np.float32)
    return _to_uint8(images + noise)


def _brightness(factor: float) -> Transform:
    return lambda images, _: _to_uint8(images * np.float32(factor))


def _contrast(images: Images, _: np.random.Generator) -> Images:
    means = images.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    return _to_uint8(means + np.float32(0.6) * (images - means))


def _affine(angle: float = 0.0, shift: float = 0.0, scale: float = 1.0) -> Transform:
    """Rotate by `angle` degrees and shift by a fraction of the side, both in random directions, and scale.

    The border is extended by the edge pixels, because photographs do not end in black.
    """

    def transform(images: Images, random: np.random.Generator) -> Images:
        side = images.shape[1]
        margin = math.ceil(0.3 * side)
        padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
        transformed = np.empty_like(images)
        for row, direction in enumerate(random.random(len(images))):
            rotation = math.radians(angle) * (1 if direction < 0.5 else -1)
            cosine, sine = math.cos(rotation) / scale, math.sin(rotation) / scale
            shift_angle = 2 * math.pi * direction
            x, y = shift * side * math.cos(shift_angle), shift * side * math.sin(shift_angle)
            center, padded_center = side / 2, side / 2 + margin
            coefficients = (
                *(cosine, sine, padded_center - cosine * center - sine * center + x),
                *(-sine, cosine, padded_center + sine * center - cosine * center + y),
            )
            image = Image.fromarray(padded[row])
            image = image.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
            transformed[row] = np.asarray(image)
        return transformed

    return transform


CORRUPTIONS = (
    Corruption("JPEG quality 40", _for_each(_jpeg)),
    Corruption("low resolution 0.7", _for_each(_low_resolution)),
    Corruption("blur 0.02", _for_each(_blur)),
    Corruption("noise 0.05", _noise),
    Corruption("darker 0.6", _brightness(0.6)),
    Corruption("brighter 1.4", _brightness(1.4)),
    Corruption("contrast 0.6", _contrast),
    Corruption("rotation 12 degrees", _affine(angle=12)),
    Corruption("shift 0.08", _affine(shift=0.08)),
    Corruption("closer 1.2", _affine(scale=1.2)),
    Corruption("farther 0.8", _affine(scale=0.8)),
)


def _to_uint8(pixels: npt.NDArray[np.float32]) -> Images:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
