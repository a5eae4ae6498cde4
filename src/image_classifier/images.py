"""Encoded bytes to pixels: the one decoder of data preparation, evaluation and serving."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from image_classifier.errors import ImageError, ImageTooLargeError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SMALLEST_SIZE, LARGEST_SIZE = 8, 224

# Only these go to Pillow's own TIFF code or to the simple paths of libtiff.
_TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate")
_FILTER = Image.Resampling.BICUBIC
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ORIENTATION_TAG, _SHORT = 0x0112, 3


class Extent(NamedTuple):
    """Width and height of an image as stored, in pixels."""

    width: int
    height: int


def decode(data: bytes, size: int, max_pixels: int) -> NDArray[np.uint8]:
    """Decode, turn upright, bring to RGB, and cover a square of `size` pixels.

    The shorter side is scaled to `size` with an antialiased bicubic filter and the middle square is kept; an
    image of that size already is not filtered. Transparency is laid on white, 16 bits are scaled to 8, the
    first frame of an animation is taken. JPEG, PNG, WebP, BMP, GIF and single plain TIFF are accepted.

    Returns uint8 [size, size, 3].
    Raises ImageTooLargeError for more than `max_pixels`, told from the header before any pixel is decoded,
    and ImageError for anything else that is not an accepted, complete image.
    """
    return decode_with_original(data, size, max_pixels)[0]


def decode_with_original(data: bytes, size: int, max_pixels: int) -> tuple[NDArray[np.uint8], Extent, str]:
    """Like `decode`, and also the size and the format (of `FORMATS`) that the image had."""
    with _refusals(max_pixels), _open(data, max_pixels) as image:
        extent = Extent(*image.size)
        if image.format == "JPEG" and min(extent) >= 4 * size:
            # Scaling in the DCT down to twice the size at most: photos decode several times faster.
            image.draft(None, (2 * size, 2 * size))
        image.load()
        # Pillow turns a TIFF image by itself.
        orientation = 1 if image.format == "TIFF" else _orientation(image.info.get("exif", b""))
        return fit(_to_rgb(image), size, orientation), extent, str(image.format)


def measure(data: bytes, max_pixels: int) -> Extent:
    """Width and height from the header alone; raises ImageError as `decode` does."""
    with _refusals(max_pixels), _open(data, max_pixels) as image:
        return Extent(*image.size)


def stated_pixels(data: bytes) -> int | None:
    """The pixels that the header of a JPEG or PNG states, or None: a hint of what decoding costs, and no check.

    Some microseconds, where `measure` takes as long as to decode a small image.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return int(width * height)
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    # A segment: 0xFF, its marker, its length; that of a frame goes on with precision, height and width.
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return int(width * height)
        position += 2 + length
    return None


def fit(image: Image.Image, size: int, orientation: int = 1) -> NDArray[np.uint8]:
    """Cover a square of `size` pixels with a grey (L) or RGB image; uint8 [size, size, 3]."""
    width, height = image.size
    if (width, height) != (size, size):
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        image = image.resize((size, size), _FILTER, box=(left, top, left + short, top + short))
    if orientation in _TURNS:
        # The middle square is the same before and after a turn, so the small image is turned.
        image = image.transpose(_TURNS[orientation])
    pixels = (image if image.mode == "RGB" else image.convert("RGB")).tobytes()
    return np.frombuffer(pixels, np.uint8).reshape(size, size, 3)


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
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"this is no image of the accepted formats: {', '.join(FORMATS)}") from None
    if image.width * image.height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {image.width:,} x {image.height:,} pixels, more than the limit of {max_pixels:,}"
        )
    if image.format == "TIFF":
        _check_tiff(image)
    return image


def _check_tiff(image: Image.Image) -> None:
    if getattr(image, "n_frames", 1) != 1:
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
