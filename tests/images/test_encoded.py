import contextlib
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_classifier.errors import ImageError
from image_classifier.images.decoder import decode
from image_classifier.images.encoded import check_parts, stated_pixels
from tests.images.test_decoder import GRADIENT, LIMIT, encode, exif


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": exif(6)}, {"quality": 5}])
def test_the_stated_pixels_of_a_jpeg_and_a_png_are_those_of_the_image(options):
    assert stated_pixels(encode(GRADIENT, "JPEG", **options)) == GRADIENT.shape[0] * GRADIENT.shape[1]
    assert stated_pixels(encode(GRADIENT)) == GRADIENT.shape[0] * GRADIENT.shape[1]


@given(st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]), st.binary(max_size=60))
def test_other_bytes_state_some_pixels_or_none(start, rest):
    assert (stated_pixels(start + rest) or 0) >= 0


def between(format, part, count):
    """An image with that part so many times after its start."""
    data = encode(GRADIENT, format)
    palette = 3 * 2 ** (1 + data[10] % 8) if data[10] & 0x80 else 0
    start = {"PNG": 33, "JPEG": 2, "GIF": 13 + palette}[format]
    return data[:start] + part * count + data[start:]


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    ("format", "part"),
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
def test_an_image_of_very_many_parts_is_refused_at_once(format, part):
    started = time.monotonic()
    with pytest.raises(ImageError, match="more than [0-9,]+ parts"):
        decode(between(format, part, 2**21 // len(part)), 24, LIMIT)
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    ("format", "part", "count"),
    [
        ("JPEG", b"\xff\xe1\xff\xffhttp://ns.adobe.com/xmp/extension/".ljust(2**16 + 1, b"x"), 150),
        ("JPEG", b"\xff\xe2\xff\xffMPF\0".ljust(2**16 + 1, b"x"), 20),
        ("PNG", chunk(b"abCd", bytes(1000)), 10_000),
        ("GIF", b"\x21\xfe\xff" + b"a" * 255 + b"\0", 9_000),
    ],
)
def test_an_image_with_much_beside_its_pixels_is_read(format, part, count):
    np.testing.assert_array_equal(
        decode(between(format, part, count), 24, LIMIT), decode(encode(GRADIENT, format), 24, LIMIT)
    )


@given(
    st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a"]),
    st.binary(max_size=60),
    st.integers(0, 255),
)
def test_other_bytes_have_parts_or_not(start, rest, filling):
    data = start + rest + bytes([filling]) * 2**16
    with contextlib.suppress(ImageError):
        check_parts(data)
