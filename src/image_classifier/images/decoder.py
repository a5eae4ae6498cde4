"""Encoded bytes to pixels: the one decoder of data preparation, evaluation and serving."""

import io
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from image_classifier.errors import ImageError, ImageTooLargeError
from image_classifier.images.encoded import check_parts

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_LOADED_WITH_THIS = (TiffImagePlugin, WebPImagePlugin)
"""Asked for a format that is not there yet Pillow would load all its forty."""
SMALLEST_SIZE, LARGEST_SIZE = 8, 224

# Only these go to Pillow's own TIFF code or to the simple paths of libtiff.
_TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate")
NO_TURN: AbstractContextManager[object] = nullcontext()
_LARGE_PIXELS = 2**24
_FILTER = Image.Resampling.BICUBIC
_STRIP_PIXELS = 2**20
"""Of an image of more pixels so many are converted at a time."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG, _SHORT = 0x0112, 3


class Extent(NamedTuple):
    """Width and height of an image as stored, in pixels."""

    width: int
    height: int


def decode(
    data: bytes, size: int, max_pixels: int, large: AbstractContextManager[object] = NO_TURN
) -> NDArray[np.uint8]:
    """Decode, turn upright, bring to RGB, and cover a square of `size` pixels.

    The shorter side is scaled to `size` with an antialiased bicubic filter and the middle square is kept; an
    image of that size already is not filtered. Transparency is laid on white, 16 bits are scaled to 8, the
    first frame of an animation is taken. JPEG, PNG, WebP, BMP, GIF and single plain TIFF are accepted.

    Returns uint8 [size, size, 3].
    Raises ImageTooLargeError for more than `max_pixels` (of WebP a quarter of that), told from the header before any
    pixel is decoded, and ImageError for anything else that is not an accepted, complete image.

    An image of more than 16 million pixels (4 million of WebP) takes up to 300 MiB while it is decoded; `large` is held
    meanwhile. A lock lets one of several threads do so at a time.
    """
    return decode_with_original(data, size, max_pixels, large)[0]


def decode_with_original(
    data: bytes, size: int, max_pixels: int, large: AbstractContextManager[object] = NO_TURN
) -> tuple[NDArray[np.uint8], Extent, str]:
    """Like `decode`, and also the size and the format (of `FORMATS`) that the image had."""
    with _refusals(max_pixels), _open(data, max_pixels) as image:
        extent = Extent(*image.size)
        is_large = extent.width * extent.height * _weight(image) > _LARGE_PIXELS
        with large if is_large else NO_TURN:
            if image.format == "JPEG" and min(extent) >= 4 * size:
                # Scaling in the DCT down to twice the size at most: photos decode several times faster.
                image.draft(None, (2 * size, 2 * size))
            image.load()
            # Pillow turns a TIFF image by itself.
            orientation = 1 if image.format == "TIFF" else _orientation(image.info.get("exif", b""))
            return _pixels(_square(image, size), orientation), extent, str(image.format)


def measure(data: bytes, max_pixels: int) -> Extent:
    """Width and height from the header alone; raises ImageError as `decode` does."""
    with _refusals(max_pixels), _open(data, max_pixels) as image:
        return Extent(*image.size)


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Cover a square of `size` pixels with a grey (L) or RGB image; uint8 [size, size, 3]."""
    return _pixels(_scaled(image, size), orientation=1)


def _square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of a loaded image of any mode, scaled; L or RGB.

    A large one is converted and scaled along its rows in strips, which gives the same pixels: Pillow's filter goes
    along the rows first, too. All at once it would need up to 1.2 GB for what a few kilobytes can state.
    """
    width, height = image.size
    if width * height <= _STRIP_PIXELS:
        return _scaled(_to_rgb(image), size)
    left, top, right, bottom = _middle_square(width, height)
    rows = max(1, _STRIP_PIXELS // width)
    strips = []
    for start in range(0, height, rows):
        strip = _to_rgb(image.crop((0, start, width, min(start + rows, height))))
        strips.append(strip.resize((size, strip.height), _FILTER, box=(left, 0, right, strip.height)))
    narrow = Image.new(strips[0].mode, (size, height))
    for number, strip in enumerate(strips):
        narrow.paste(strip, (0, number * rows))
    return narrow.resize((size, size), _FILTER, box=(0, top, size, bottom))


def _scaled(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return image.resize((size, size), _FILTER, box=_middle_square(*image.size))


def _middle_square(width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom."""
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    return left, top, left + short, top + short


def _pixels(square: Image.Image, orientation: int) -> NDArray[np.uint8]:
    if orientation in _TURNS:
        # The middle square is the same before and after a turn, so the small image is turned.
        square = square.transpose(_TURNS[orientation])
    pixels = (square if square.mode == "RGB" else square.convert("RGB")).tobytes()
    return np.frombuffer(pixels, np.uint8).reshape(*square.size, 3)


@contextmanager
def _refusals(max_pixels: int) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError with the reason."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError(f"the image has more pixels than the limit of {max_pixels:,}") from None
    except MemoryError:
        raise ImageTooLargeError("the image needs more memory than there is") from None
    except Exception as error:
        # Pillow's decoders raise nearly everything on hostile bytes: OSError, SyntaxError, struct.error, …
        raise ImageError(f"the image cannot be decoded: {_reason(error)}") from None


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError("the image is empty: 0 bytes")
    check_parts(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"this is no image of the accepted formats: {', '.join(FORMATS)}") from None
    most = max_pixels // _weight(image)
    if image.width * image.height > most:
        raise ImageTooLargeError(
            f"the image has {image.width:,} x {image.height:,} pixels, more than the limit of {most:,}"
            + (f" for {image.format}" if most < max_pixels else "")
        )
    if image.format == "TIFF":
        _check_tiff(image)
    return image


def _weight(image: Image.Image) -> int:
    """How many times the memory of other formats a pixel takes: libwebp holds several copies of the image."""
    return 4 if image.format == "WEBP" else 1


def _check_tiff(image: Image.Image) -> None:
    # Not n_frames, for which Pillow goes through all pages, minutes long where 20 MiB state them.
    if getattr(image, "is_animated", False):
        raise ImageError("a TIFF file of several pages is not accepted; save the page as PNG")
    compression = image.info.get("compression", "raw")
    if compression not in _TIFF_COMPRESSIONS:
        raise ImageError(f"TIFF compression {compression!r} is not accepted; save the image as PNG")


def _to_rgb(image: Image.Image) -> Image.Image:
    """To RGB, or L for what is grey; the resize comes after, so that no palette or alpha is interpolated."""
    mode = image.mode
    if mode.startswith("I"):
        high = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return Image.fromarray(high.astype(np.uint8))
    if mode == "F":
        raise ImageError("an image of floating-point pixels is not accepted; save it with 8 bits a channel")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colour = image.convert("RGBA")
        ground = Image.new("RGBA", colour.size, "white")
        return Image.alpha_composite(ground, colour).convert("RGB")
    if mode in ("RGB", "L"):
        return image
    return image.convert("L" if mode == "1" else "RGB")


def _orientation(exif: bytes) -> int:
    """The orientation tag, 1 to 8, of an EXIF block; 1 where it is absent or the block is damaged."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, entry)
            if tag == _ORIENTATION_TAG and kind == _SHORT:
                return int(value)
    except struct.error:
        return 1
    return 1


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] if text else type(error).__name__
