"""The image decoder of data preparation, evaluation and serving: encoded bytes to pixels."""

import functools
import io
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from image_classifier.errors import ImageError, ImageTooLargeError
from image_classifier.images.image_headers import (
    accepted_format,
    check_scan_count,
    check_segment_count,
    check_tag_count,
    refused_format,
)
from image_classifier.text import one_line

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_LOADED_PLUGINS = (TiffImagePlugin, WebPImagePlugin)
"""Imported because Pillow loads all its forty plugins once it is asked for a format that is not loaded."""
MIN_IMAGE_SIZE = 8
CROP, PAD = "crop", "pad"
"""Framings: the center square of an image, or the whole image in the middle of a gray square."""
PAD_GRAY = 127
"""Zero for the backbones after their normalization, as is the padding within their convolutions. Edge colors would be
pixels that no photo has, and streaks where an edge is not of one color."""

# Only these are decoded by Pillow's own TIFF code or by the simple paths of libtiff.
_TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate")
_NO_LOCK: AbstractContextManager[object] = nullcontext()
_LARGE_IMAGE_PIXELS = 2**24
_FILTER = Image.Resampling.BICUBIC
_FILTER_RADIUS = 2  # in pixels of the smaller one of the image and the result
_LONG_SIDE, _REDUCING_GAP = 2**14, 64
"""A longer side is averaged over blocks first, to 64 times the size or more: the filter takes 32 bytes for each of its
pixels, and a PNG of a few kilobytes can be 50 million pixels wide. No center square is that long."""
_STRIP_PIXELS = 2**20  # larger images are converted in strips of this size
_GRAY_BITS = (8, 10, 12, 14, 16)  # of cameras, X-ray detectors, thermal and depth sensors
_BMP_RLE = (1, 2)  # compressions, of 8 and 4 bits per pixel
# Pillow decodes them in Python, which takes 0.1 s for images of these sizes.
_MAX_RLE_BYTES, _MAX_RLE_PIXELS = 2**18, 2**20
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation."""
_SHORT = 3  # EXIF type
_MAX_SAMPLE_VALUE = 281  # TIFF tag


class Dimensions(NamedTuple):
    """Width and height of an image as stored, in pixels."""

    width: int
    height: int


def decode(data: bytes, size: int, max_pixels: int, framing: str = CROP) -> NDArray[np.uint8]:
    """Decode an image, apply its EXIF orientation, convert it to RGB, and fit it to a square.

    With the framing `CROP` the shorter side is resized to `size` with an antialiased bicubic filter and the center
    square is kept; with `PAD` the longer side is, and the rest of the square is gray. An image of this size is not
    filtered. Transparent pixels are composited on white, and the first frame of an animation or of a JPEG with several
    pictures (MPO) is used. Accepts JPEG, PNG, WebP, BMP, GIF and simple single-page TIFF.

    A grayscale image with 16 bits per pixel is scaled from the bits that its values use to 8 bits: the smallest of 8,
    10, 12, 14 and 16 bits that holds its largest value, and in a TIFF at least those that its tags BitsPerSample or
    MaxSampleValue state. So 12-bit values of an X-ray keep their contrast, and the same image has the same pixels
    everywhere. Of a color image with 16 bits per channel the upper 8 bits are used.

    Returns uint8 [size, size, 3].
    Raises ImageTooLargeError if the header states more than `max_pixels` (a quarter of that for WebP), before any pixel
    is decoded, and ImageError for any other bytes that are not an accepted, complete image.
    """
    return decode_with_metadata(data, size, max_pixels, framing=framing)[0]


def decode_with_metadata(
    data: bytes,
    size: int,
    max_pixels: int,
    large_image_lock: AbstractContextManager[object] = _NO_LOCK,
    *,
    framing: str = CROP,
) -> tuple[NDArray[np.uint8], Dimensions, str]:
    """Like `decode`, and also returns the stored dimensions and the format (one of `FORMATS`).

    Decoding more than 16 million pixels (4 million for WebP) takes up to 300 MiB. `large_image_lock` is held meanwhile,
    so that only one of several threads does it at a time.
    """
    with _pillow_errors(max_pixels), _open(data, max_pixels) as image:
        dimensions = Dimensions(*image.size)
        is_large = dimensions.width * dimensions.height * _memory_factor(image) > _LARGE_IMAGE_PIXELS
        with large_image_lock if is_large else _NO_LOCK:
            target = _target(dimensions, size, framing)
            if isinstance(image, JpegImageFile) and all(
                side >= 4 * resized for side, resized in zip(dimensions, target, strict=True)
            ):
                # Scales in the DCT, to at least twice the size: photos decode several times faster.
                image.draft(None, (2 * target.width, 2 * target.height))
            image.load()
            orientation = _orientation(image.info.get("exif", b""))
            if image.format == "TIFF":  # Pillow applies the orientation itself, which may exchange the sides
                target, orientation = _target(Dimensions(*image.size), size, framing), 1
            return _to_array(_resized(image, target, framing), size, orientation), dimensions, str(image.format)


def read_dimensions(data: bytes, max_pixels: int) -> Dimensions:
    """Read width and height from the header alone. Raises ImageError as `decode` does."""
    with _pillow_errors(max_pixels), _open(data, max_pixels) as image:
        return Dimensions(*image.size)


def fit_to_square(image: Image.Image, size: int, framing: str = CROP) -> NDArray[np.uint8]:
    """Resize a grayscale (L) or RGB image and crop or pad it to a square; returns uint8 [size, size, 3]."""
    target = _target(Dimensions(*image.size), size, framing)
    return _to_array(_filtered(image, target, _box(image, framing)), size, orientation=1)


def _target(dimensions: Dimensions, size: int, framing: str) -> Dimensions:
    """What an image is resized to: a square, or the largest part of a square that has the shape of the image."""
    if framing == PAD:
        return Dimensions(*(max(1, round(side * size / max(dimensions))) for side in dimensions))
    return Dimensions(size, size)


def _box(image: Image.Image, framing: str) -> tuple[float, float, float, float]:
    """The part of an image that is used: left, top, right, bottom."""
    width, height = image.size
    if framing == PAD:
        return 0, 0, width, height
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _resized(image: Image.Image, target: Dimensions, framing: str) -> Image.Image:
    """The part of a loaded image of any mode that is used, resized to `target`; L or RGB.

    A large image is converted and resized along its rows in strips. The pixels are the same, as Pillow filters along
    the rows first, too. Converted at once, an image that takes a few kilobytes encoded could need 1.2 GB.
    """
    width, height = image.size
    gray_bits = _gray_bits(image) if image.mode.startswith("I") else 8
    box = _box(image, framing)
    if width * height <= _STRIP_PIXELS:
        return _filtered(_to_rgb(image, gray_bits), target, box)
    left, top, right, bottom = box
    # The rows that the filter along the columns uses. Of a narrow image, all rows could be a thousand times its size.
    margin = _FILTER_RADIUS * max(1, (bottom - top) / target.height) + 1
    first, last = max(0, math.floor(top - margin)), min(height, math.ceil(bottom + margin))
    narrow: Image.Image | None = None
    row = 0
    for stored in _strips(image, first, last):
        strip = _to_rgb(stored, gray_bits)
        narrow = narrow or Image.new(strip.mode, (target.width, last - first))
        strip_target = Dimensions(target.width, strip.height)
        narrow.paste(_filtered(strip, strip_target, (left, 0, right, strip.height)), (0, row))
        row += strip.height
    assert narrow is not None
    return _filtered(narrow, target, (0, top - first, target.width, bottom - first))


def _filtered(image: Image.Image, target: Dimensions, box: tuple[float, float, float, float]) -> Image.Image:
    if image.size == target:
        return image
    left, top, right, bottom = box
    is_long = max(right - left, bottom - top) > _LONG_SIDE
    return image.resize(target, _FILTER, box, reducing_gap=_REDUCING_GAP if is_long else None)


def _strips(image: Image.Image, first: int, last: int) -> Iterator[Image.Image]:
    """The rows from `first` to `last` of an image, in strips of at most `_STRIP_PIXELS` pixels or one row."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for start in range(first, last, rows):
        yield image.crop((0, start, image.width, min(start + rows, last)))


def _gray_bits(image: Image.Image) -> int:
    """The bits that the values of a grayscale image with 16 or 32 bits per pixel use: one of `_GRAY_BITS`.

    PNG's chunk sBIT is ignored: its samples are scaled to the whole range (https://www.w3.org/TR/png-3/#11sBIT).
    Raises ImageError if a value is negative or needs more than 16 bits.
    """
    extremes = [(int(values.min()), int(values.max())) for values in map(np.asarray, _strips(image, 0, image.height))]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    if low < 0 or high >= 2**16:
        raise ImageError(
            f"pixel values from {low:,} to {high:,} are not accepted; save the image with values from 0 to 65,535"
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits, *_ = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))
        stated, *_ = (2**bits - 1,) if bits < 16 else image.tag_v2.get(_MAX_SAMPLE_VALUE, (None,))
        if isinstance(stated, int) and stated < 2**16 - 1:  # else it only says that there are 16 bits
            high = max(high, stated)
    return next(bits for bits in _GRAY_BITS if high < 2**bits)


def _to_array(resized: Image.Image, size: int, orientation: int) -> NDArray[np.uint8]:
    if orientation in _TRANSPOSITIONS:
        # The used part of an image is the same before and after, so the small image is transposed.
        resized = resized.transpose(_TRANSPOSITIONS[orientation])
    image = resized if resized.mode == "RGB" else resized.convert("RGB")
    if image.size != (size, size):
        square = Image.new("RGB", (size, size), (PAD_GRAY,) * 3)
        square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        image = square
    return np.frombuffer(image.tobytes(), np.uint8).reshape(size, size, 3)


@contextmanager
def _pillow_errors(max_pixels: int) -> Iterator[None]:
    """Convert any exception of Pillow to an ImageError with the reason."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError(f"the image has more pixels than the limit of {max_pixels:,}") from None
    except MemoryError:
        raise ImageTooLargeError("not enough memory to decode the image") from None
    except Exception as error:
        # Pillow's decoders raise nearly everything on hostile bytes: OSError, SyntaxError, struct.error, …
        reason = one_line(error)
        raise ImageError(f"the image cannot be decoded: {reason}") from None


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError("the image is empty: 0 bytes")
    _ignore_warnings_of_pillow()
    check_segment_count(data)
    check_tag_count(data)
    try:
        # Image.open returns a JPEG with several pictures as format MPO, and refuses some with a damaged index of them.
        is_jpeg = data.startswith(b"\xff\xd8\xff")
        image = JpegImageFile(io.BytesIO(data)) if is_jpeg else Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if format := accepted_format(data):
            raise ImageError(f"the image cannot be decoded: the header of the {format} is damaged") from None
        reason = f"not an image in an accepted format: {', '.join(FORMATS)}"
        if refused := refused_format(data):
            name, advice = refused
            reason = f"the file is {name}, {reason}; {advice}"
        raise ImageError(reason) from None
    limit = max_pixels // _memory_factor(image)
    if image.width * image.height > limit:
        raise ImageTooLargeError(
            f"the image has {image.width:,} x {image.height:,} pixels, more than the limit of {limit:,}"
            + (f" for {image.format}" if limit < max_pixels else "")
            + "; shrink it, or raise max_pixels"
        )
    if image.format == "JPEG":
        check_scan_count(data, image.width * image.height)
    elif image.format == "TIFF":
        _check_tiff(image)
    elif image.format == "BMP":
        _check_bmp(image, len(data))
    return image


@functools.cache
def _ignore_warnings_of_pillow() -> None:
    """Print no warnings about damaged metadata, of which clients could provoke a new one with each image."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _memory_factor(image: Image.Image) -> int:
    """Memory per pixel relative to other formats: libwebp holds several copies of the image."""
    return 4 if image.format == "WEBP" else 1


def _check_tiff(image: Image.Image) -> None:
    # Not n_frames: Pillow would read all pages, which takes minutes for 20 MiB of them.
    if getattr(image, "is_animated", False):
        raise ImageError("TIFF files with several pages are not accepted; save the page as PNG")
    compression = image.info.get("compression", "raw")
    if compression not in _TIFF_COMPRESSIONS:
        raise ImageError(f"TIFF compression {compression!r} is not accepted; save the image as PNG")


def _check_bmp(image: Image.Image, size: int) -> None:
    if image.info.get("compression") in _BMP_RLE and (
        size > _MAX_RLE_BYTES or image.width * image.height > _MAX_RLE_PIXELS
    ):
        raise ImageTooLargeError(
            f"the run-length encoded BMP has {size:,} bytes and {image.width:,} x {image.height:,} pixels; the limits "
            f"are {_MAX_RLE_BYTES:,} bytes and {_MAX_RLE_PIXELS:,} pixels; save the image as PNG"
        )


def _to_rgb(image: Image.Image, gray_bits: int) -> Image.Image:
    """Convert to RGB, or to L if grayscale. Done before resizing, which must not interpolate palette or alpha."""
    mode = image.mode
    if mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> (gray_bits - 8)).astype(np.uint8))
    if mode == "F":
        raise ImageError("floating-point pixels are not accepted; save the image with 8 bits per channel")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        color = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", color.size, "white"), color).convert("RGB")
    return image if mode in ("RGB", "L") else image.convert("L" if mode == "1" else "RGB")


def _orientation(exif: bytes) -> int:
    """The orientation tag, 1 to 8, of an EXIF block; 1 if it is absent or the block is damaged.

    Pillow's `getexif` takes 44 % of the time of decoding a small PNG that has EXIF, and issues a Python warning for
    each new kind of damage, which clients of a server could provoke without end.
    """
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, entry)
            if tag == ExifTags.Base.Orientation and kind == _SHORT:
                return int(value)
    except struct.error:
        return 1
    return 1
