"""What happens to real images on their way to a model, each at a moderate strength.

After Hendrycks & Dietterich 2019 (arXiv:1903.12261), with strengths that leave an image easy to recognise for a
person. Lengths are shares of the side, so that they mean the same at every image size.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from image_classifier.images import decode
from image_classifier.package import Images

_SEED = 0


@dataclass(frozen=True)
class Corruption:
    """One kind of trouble. Its name states the strength: what has another strength has another name."""

    name: str
    apply: Callable[[Images, np.random.Generator], Images]
    """From uint8 [N, S, S, 3] to the same; all that is random is drawn from the generator, image by image."""

    def of(self, images: Images) -> Images:
        """The images as they become; image i is treated the same however many follow it."""
        return self.apply(images, np.random.default_rng([_SEED, *self.name.encode()]))


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


def _each(
    change: Callable[[Image.Image, int], npt.NDArray[np.uint8]],
) -> Callable[[Images, np.random.Generator], Images]:
    def apply(images: Images, _: np.random.Generator) -> Images:
        return np.stack([change(Image.fromarray(image), images.shape[1]) for image in images])

    return apply


def _noise(images: Images, random: np.random.Generator) -> Images:
    # Of brightness, not of colour: grey images stay grey.
    noise = random.normal(0, 0.05 * 255, (*images.shape[:3], 1)).astype(np.float32)
    return _clipped(images + noise)


def _brightness(factor: float) -> Callable[[Images, np.random.Generator], Images]:
    return lambda images, _: _clipped(images * np.float32(factor))


def _contrast(images: Images, _: np.random.Generator) -> Images:
    means = images.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    return _clipped(means + np.float32(0.6) * (images - means))


def _moved(
    angle: float = 0.0, shift: float = 0.0, scale: float = 1.0
) -> Callable[[Images, np.random.Generator], Images]:
    """Turned by `angle` degrees to either side, shifted by a share of the side to any, and scaled.

    What comes into view repeats the edge, as pictures do not end in black.
    """

    def apply(images: Images, random: np.random.Generator) -> Images:
        side = images.shape[1]
        margin = math.ceil(0.3 * side)
        padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
        moved = np.empty_like(images)
        for place, direction in enumerate(random.random(len(images))):
            turn = math.radians(angle) * (1 if direction < 0.5 else -1)
            cosine, sine = math.cos(turn) / scale, math.sin(turn) / scale
            towards = 2 * math.pi * direction
            x, y = shift * side * math.cos(towards), shift * side * math.sin(towards)
            middle, centre = side / 2, side / 2 + margin
            coefficients = (
                *(cosine, sine, centre - cosine * middle - sine * middle + x),
                *(-sine, cosine, centre + sine * middle - cosine * middle + y),
            )
            image = Image.fromarray(padded[place]).transform(
                (side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
            )
            moved[place] = np.asarray(image)
        return moved

    return apply


CORRUPTIONS = (
    Corruption("JPEG quality 40", _each(_jpeg)),
    Corruption("low resolution 0.7", _each(_low_resolution)),
    Corruption("blur 0.02", _each(_blur)),
    Corruption("noise 0.05", _noise),
    Corruption("darker 0.6", _brightness(0.6)),
    Corruption("brighter 1.4", _brightness(1.4)),
    Corruption("contrast 0.6", _contrast),
    Corruption("rotation 12 degrees", _moved(angle=12)),
    Corruption("shift 0.08", _moved(shift=0.08)),
    Corruption("closer 1.2", _moved(scale=1.2)),
    Corruption("farther 0.8", _moved(scale=0.8)),
)


def _clipped(pixels: npt.NDArray[np.float32]) -> Images:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
