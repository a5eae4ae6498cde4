"""What the bytes of an image file tell before Pillow reads them."""

import struct
from collections.abc import Iterator
from itertools import islice

from image_classifier.errors import ImageError

_PNG_START = b"\x89PNG\r\n\x1a\n"
_UNCOUNTED_BYTES = 2**16
_JPEG_SCAN = 0xDA
_JPEG_ALONE = frozenset(range(0xD0, 0xDA)) | {0x00, 0x01}
"""What is no segment with a length: restarts, start and end of an image, escaped bytes."""
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def stated_pixels(data: bytes) -> int | None:
    """The pixels that the header of a JPEG or PNG states, or None: a hint of what decoding costs, and no check.

    Some microseconds, where `measure` takes as long as to decode a small image.
    """
    if data[:8] == _PNG_START and len(data) >= 24:
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


def check_parts(data: bytes) -> None:
    """Raises ImageError for a JPEG, PNG or GIF of more parts than any camera or program writes.

    Pillow goes through them one by one, and joins some, each time anew: 20 MiB of them take a minute and a gigabyte.
    """
    if len(data) <= _UNCOUNTED_BYTES:
        return
    for start, parts, most in _PARTS:
        if data.startswith(start) and sum(1 for _ in islice(parts(data), most + 1)) > most:
            raise ImageError(f"the image has more than {most:,} parts beside its pixels; save it anew")


def _jpeg_parts(data: bytes) -> Iterator[None]:
    """One for each segment before the pixels, and for each byte between them."""
    position = 2
    while position + 4 <= len(data):
        yield
        if data[position] != 0xFF or data[position + 1] == 0xFF:
            position += 1
        elif data[position + 1] in _JPEG_ALONE:
            position += 2
        elif data[position + 1] == _JPEG_SCAN:
            return
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4])


def _png_parts(data: bytes) -> Iterator[None]:
    """One for each chunk."""
    position = 8
    while position + 4 <= len(data):
        yield
        position += 12 + int.from_bytes(data[position : position + 4])


def _gif_parts(data: bytes) -> Iterator[None]:
    """One for each block of the extensions before the first image, and for each byte between them."""
    position = 13 + (3 * 2 ** (1 + data[10] % 8) if data[10] & 0x80 else 0)
    while position < len(data) and data[position] != _GIF_IMAGE:
        yield
        if data[position] == _GIF_EXTENSION:
            position += 2
            while position < len(data) and data[position]:
                yield
                position += 1 + data[position]
        position += 1


_PARTS = (
    (b"\xff\xd8", _jpeg_parts, 512),
    (_PNG_START, _png_parts, 20_000),
    (b"GIF8", _gif_parts, 20_000),
)
"""How files of a format begin, what their parts are, and how many they may have."""
