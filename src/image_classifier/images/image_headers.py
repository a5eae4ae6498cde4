"""Cheap checks of an encoded image before Pillow parses it: pixel count and number of segments."""

import struct
from collections.abc import Iterator
from itertools import islice

from image_classifier.errors import ImageError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UNCHECKED_BYTES = 2**16
_JPEG_START_OF_SCAN = 0xDA
_JPEG_WITHOUT_LENGTH = frozenset(range(0xD0, 0xDA)) | {0x00, 0x01}
"""Markers without a length: restart, start and end of image; and 0x00, which escapes a data byte."""
_JPEG_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C


def header_pixel_count(data: bytes) -> int | None:
    """Returns the number of pixels according to the header of a JPEG or PNG; None for other bytes.

    An estimate of the decoding cost, in microseconds: `read_dimensions` takes as long as decoding a small image.
    """
    if data[:8] == _PNG_SIGNATURE and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return int(width * height)
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    # A segment is 0xFF, a marker and a length; a frame's continues with precision, height and width.
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        if marker in _JPEG_START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return int(width * height)
        position += 2 + length
    return None


def check_segment_count(data: bytes) -> None:
    """Raises ImageError if a JPEG, PNG or GIF has more segments than any camera or program writes.

    Pillow reads them one by one and copies all earlier ones each time: 20 MiB of segments take a minute and 1 GB.
    """
    if len(data) <= _UNCHECKED_BYTES:
        return
    for signature, segments, limit in _SEGMENT_LIMITS:
        if data.startswith(signature) and sum(1 for _ in islice(segments(data), limit + 1)) > limit:
            raise ImageError(f"the image has more than {limit:,} metadata segments; save it again without them")


def _jpeg_segments(data: bytes) -> Iterator[None]:
    """One item for each segment before the pixels, and for each byte between segments."""
    position = 2
    while position + 4 <= len(data):
        yield
        if data[position] != 0xFF or data[position + 1] == 0xFF:
            position += 1
        elif data[position + 1] in _JPEG_WITHOUT_LENGTH:
            position += 2
        elif data[position + 1] == _JPEG_START_OF_SCAN:
            return
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4])


def _png_chunks(data: bytes) -> Iterator[None]:
    position = 8
    while position + 4 <= len(data):
        yield
        position += 12 + int.from_bytes(data[position : position + 4])


def _gif_blocks(data: bytes) -> Iterator[None]:
    """One item for each block of the extensions before the first image, and for each byte between them."""
    position = 13 + (3 * 2 ** (1 + data[10] % 8) if data[10] & 0x80 else 0)
    while position < len(data) and data[position] != _GIF_IMAGE:
        yield
        if data[position] == _GIF_EXTENSION:
            position += 2
            while position < len(data) and data[position]:
                yield
                position += 1 + data[position]
        position += 1


_SEGMENT_LIMITS = (
    (b"\xff\xd8", _jpeg_segments, 512),
    (_PNG_SIGNATURE, _png_chunks, 20_000),
    (b"GIF8", _gif_blocks, 20_000),
)
"""Signature, segments and maximum number of segments of each format."""
