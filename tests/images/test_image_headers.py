import contextlib
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, strategies as st

from image_classifier.errors import ImageError
from image_classifier.images import decoder
from image_classifier.images.decoder import decode
from image_classifier.images.image_headers import check_segment_count, header_pixel_count
from tests.images.test_decoder import GRADIENT, LIMIT, encode, exif


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": exif(6)}, {"quality": 5}])
def test_the_header_of_a_jpeg_and_a_png_has_the_pixel_count(options):
    assert header_pixel_count(encode(GRADIENT, "JPEG", **options)) == GRADIENT.shape[0] * GRADIENT.shape[1]
    assert header_pixel_count(encode(GRADIENT)) == GRADIENT.shape[0] * GRADIENT.shape[1]


@given(st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]), st.binary(max_size=60))
def test_the_header_of_other_bytes_is_harmless(start, rest):
    assert (header_pixel_count(start + rest) or 0) >= 0


def with_segments(format, segment, count):
    """An image with `count` copies of a segment after its header."""
    data = encode(GRADIENT, format)
    palette = 3 * 2 ** (1 + data[10] % 8) if data[10] & 0x80 else 0
    start = {"PNG": 33, "JPEG": 2, "GIF": 13 + palette}[format]
    return data[:start] + segment * count + data[start:]


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    ("format", "segment"),
    [
        ("JPEG", b"\xff\xe1\0\x0aExif\0\0\0\0"),
        ("JPEG", b"\xff\xe2\0\x10ICC_PROFILE\0\1\1"),
        ("JPEG", b"\xff\xfe\0\2"),
        ("JPEG", b"\xff\xd0"),
        ("JPEG", b"\xff"),
        ("JPEG", b"junk"),
        ("JPEG", b"\xff\0"),
        ("PNG", chunk(b"abCd")),
        ("PNG", chunk(b"tEXt", b"a\0")),
        ("GIF", b"\x21\xfe\x02ab\0"),
        ("GIF", b"\0"),
    ],
)
def test_an_image_with_very_many_segments_is_refused_before_pillow_reads_it(format, segment, monkeypatch):
    data = with_segments(format, segment, 2**21 // len(segment))
    monkeypatch.setattr(decoder.Image, "open", None)
    with pytest.raises(ImageError, match="more than [0-9,]+ metadata segments"):
        decode(data, 24, LIMIT)


@pytest.mark.parametrize(
    ("format", "segment", "count"),
    [
        ("JPEG", b"\xff\xe1\xff\xffhttp://ns.adobe.com/xmp/extension/".ljust(2**16 + 1, b"x"), 150),
        ("JPEG", b"\xff\xe2\xff\xffMPF\0".ljust(2**16 + 1, b"x"), 20),
        ("PNG", chunk(b"abCd", bytes(1000)), 10_000),
        ("GIF", b"\x21\xfe\xff" + b"a" * 255 + b"\0", 9_000),
    ],
)
@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO file")
def test_an_image_with_much_metadata_is_decoded(format, segment, count):
    data = with_segments(format, segment, count)
    np.testing.assert_array_equal(decode(data, 24, LIMIT), decode(encode(GRADIENT, format), 24, LIMIT))


@given(
    st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a"]), st.binary(max_size=60), st.integers(0, 255)
)
def test_counting_the_segments_of_other_bytes_is_harmless(start, rest, filling):
    data = start + rest + bytes([filling]) * 2**16
    with contextlib.suppress(ImageError):
        check_segment_count(data)
