"""Cheap checks of an encoded image before Pillow parses it: format, pixels, segments, tags and scans."""

import re
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
_JPEG_SCAN = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
"""Start of a scan with its length and number of channels."""
_USUAL_SCANS = 32
_MAX_SCANNED_PIXELS = 2**30  # of all scans; takes a second
_MAX_EXIF_BLOCKS = 4  # of 64 KiB; cameras write one
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C
_MAX_TIFF_VALUES = 2**16
_BIG_TIFF = 43
_DIRECTORY_TAGS = (34665, 34853, 40965)  # EXIF, GPS, interoperability
_DESCRIPTION, _FIRST_PRIVATE_TAG = 270, 700  # which may hold long texts and profiles
_TIFF_SHORT = 3  # type
_BYTES = (1, 2, 7)  # types that are not converted: bytes, text, undefined

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    _PNG_SIGNATURE: "PNG",
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_CONTAINERS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "a camera's raw file",
}
"""By the brand of an ISO media file."""
_REFUSED_FORMATS = (
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF"),
    (b"\0\0\1\0", "an icon"),
    (b"<svg", "SVG"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)
"""First bytes and name; text in lower case."""
_ADVICE = {"a web page": "download the image again", "a Git LFS pointer": "run `git lfs pull`"}


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


def check_tag_count(data: bytes) -> None:
    """Raises ImageError if a TIFF, or the EXIF blocks of a JPEG, have more values than any camera or program writes.

    Pillow converts them one by one: 20 MiB of TIFF strips take half a minute and 1.6 GB, of EXIF fractions 6 s.
    """
    if len(data) <= _UNCHECKED_BYTES:
        return
    if data[:2] in (b"II", b"MM") and sum(islice(_tiff_values(data), _MAX_TIFF_VALUES + 1)) > _MAX_TIFF_VALUES:
        raise ImageError(f"the TIFF has more than {_MAX_TIFF_VALUES:,} strips, tiles or tags; save the image as PNG")
    if data.startswith(b"\xff\xd8"):
        blocks = sum(1 for start in _jpeg_segments(data) if data[start + 4 : start + 10] == b"Exif\0\0")
        if blocks > _MAX_EXIF_BLOCKS:
            raise ImageError(f"the image has {blocks:,} blocks of EXIF metadata; save it again without them")


def check_scan_count(data: bytes, pixels: int) -> None:
    """Raises ImageError if a JPEG of this number of pixels has so many scans that decoding takes several seconds.

    A progressive JPEG has some ten scans, each of which may be a few bytes and goes through all pixels.
    """
    limit = max(_USUAL_SCANS, _MAX_SCANNED_PIXELS // max(pixels, 1))
    # The first count is fast; other bytes of a file contain the two of the marker by chance, too.
    if data.count(b"\xff\xda") > limit and len(_JPEG_SCAN.findall(data)) > limit:
        raise ImageError(f"the JPEG has more than {limit:,} scans; save it again")


def accepted_format(data: bytes) -> str | None:
    """The name of the accepted format that the first bytes belong to; None if they belong to none."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for start, name in _SIGNATURES.items() if data.startswith(start)), None)


def refused_format(data: bytes) -> tuple[str, str] | None:
    """The name of a known format that is not accepted, and what to do; None if the bytes are of no such format."""
    if data[4:8] == b"ftyp":
        name = _CONTAINERS.get(data[8:12], "a video")
    else:
        text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        names = (name for start, name in _REFUSED_FORMATS if data.startswith(start) or text.startswith(start))
        name = next(names, "")
    return (name, _ADVICE.get(name, "convert it to JPEG or PNG")) if name else None


def _tiff_values(data: bytes) -> Iterator[int]:
    """The number of values of each tag that Pillow converts, of the first page and of its EXIF directories."""
    order = "<" if data.startswith(b"II") else ">"
    is_big = data[2] == _BIG_TIFF
    offset, length, entry, short = (
        struct.Struct(order + kind) for kind in (("Q", "Q", "HHQQ", "H") if is_big else ("I", "H", "HHII", "H"))
    )
    directories = list(offset.unpack_from(data, 8 if is_big else 4))
    for start in directories:
        if start + length.size > len(data):
            continue
        (entries,) = length.unpack_from(data, start)
        start += length.size
        for position in range(start, min(start + entries * entry.size, len(data) - entry.size + 1), entry.size):
            tag, kind, count, value = entry.unpack_from(data, position)
            if kind == _TIFF_SHORT:
                (value,) = short.unpack_from(data, position + entry.size - offset.size)
            if tag in _DIRECTORY_TAGS and value not in directories:
                directories.append(value)
            is_blob = kind in _BYTES and (tag >= _FIRST_PRIVATE_TAG or tag == _DESCRIPTION)
            yield 1 if is_blob else max(1, count)


def _jpeg_segments(data: bytes) -> Iterator[int]:
    """The position of each segment before the pixels, and of each byte between segments."""
    position = 2
    while position + 4 <= len(data):
        yield position
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
