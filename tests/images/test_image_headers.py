import contextlib
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image, TiffImagePlugin

from image_classifier.errors import ImageError
from image_classifier.images import decoder, image_headers
from image_classifier.images.decoder import decode
from image_classifier.images.image_headers import check_scan_count, check_segment_count, header_pixel_count
from tests.images.test_decoder import GRADIENT, LIMIT, encode, exif, tiff


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


def large_tiff(tag, kind, count, values, *more):
    """A TIFF with `count` values of a tag, which are behind its directory."""
    known = (256, 257, 258, 259, 262, 273, 277, 278, 279)
    start = 8 + 2 + 12 * (len(known) + len({each[0] for each in more if each[0] not in known}) + (tag not in known)) + 4
    return tiff((tag, kind, count, start), *more, pixels=values)


STRIPS, FRACTIONS = struct.pack("<I", 8) * 2**17, struct.pack("<II", 72, 1) * 2**17
DIRECTORY = struct.pack("<HHHIII", 1, 0x829A, 5, 2**17, 26, 0)


@pytest.mark.parametrize(
    "data",
    [
        large_tiff(273, 4, 2**17, STRIPS, (278, 4, 1, 1)),
        large_tiff(273, 1, 2**19, STRIPS, (278, 4, 1, 1)),
        large_tiff(324, 3, 2**18, STRIPS),
        large_tiff(282, 5, 2**17, FRACTIONS),
        large_tiff(34675, 5, 2**17, FRACTIONS),
        large_tiff(34665, 4, 1, b"", (34665, 4, 1, 134)) + DIRECTORY + FRACTIONS,
        b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1) + struct.pack("<HHQQ", 273, 4, 2**17, 52) + bytes(8) + STRIPS,
    ],
    ids=["strips", "strips as bytes", "tiles", "resolutions", "a profile of fractions", "EXIF", "BigTIFF"],
)
def test_a_tiff_with_very_many_values_is_refused_before_pillow_reads_it(data, monkeypatch):
    monkeypatch.setattr(decoder.Image, "open", None)
    with pytest.raises(ImageError, match="more than 65,536 strips, tiles or tags"):
        decode(data, 3, LIMIT)


def test_a_tiff_with_long_texts_and_profiles_is_decoded():
    image = Image.fromarray(GRADIENT)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = "x" * 200_000
    tags[34675] = bytes(200_000)
    tags.tagtype[34675] = 7
    np.testing.assert_array_equal(decode(encode(image, "TIFF", tiffinfo=tags), 24, LIMIT), GRADIENT)


def exif_blocks(count):
    return b"".join(b"\xff\xe1" + struct.pack(">H", 60_008) + b"Exif\0\0" + bytes(60_000) for _ in range(count))


def test_a_jpeg_with_many_blocks_of_exif_is_refused_and_one_with_a_few_is_decoded():
    data = encode(GRADIENT, "JPEG")
    few = decode(data[:2] + exif_blocks(4) + data[2:], 24, LIMIT)
    np.testing.assert_array_equal(few, decode(data, 24, LIMIT))
    with pytest.raises(ImageError, match="5 blocks of EXIF"):
        decode(data[:2] + exif_blocks(5) + data[2:], 24, LIMIT)


def with_scans(data, count):
    """A progressive JPEG whose last scan, with its tables, is repeated."""
    last = max(data.rfind(b"\xff\xc4"), data[: data.rfind(b"\xff\xda")].rfind(b"\xff\xda"))
    return data[:-2] + data[last:-2] * count + data[-2:]


def test_the_scans_of_a_jpeg_are_limited_by_its_pixels(monkeypatch):
    data = encode(Image.new("L", (64, 64), 77), "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    many = with_scans(data, 32 - scans)
    assert many.count(b"\xff\xda") == 32
    check_scan_count(many, 2**40)
    assert (decode(with_scans(data, 300), 8, LIMIT) == 77).all()
    monkeypatch.setattr(image_headers, "_MAX_SCANNED_PIXELS", 64 * 64 * 100)
    with pytest.raises(ImageError, match="more than 100 scans"):
        decode(with_scans(data, 101), 8, LIMIT)
    with pytest.raises(ImageError, match="more than 32 scans"):
        check_scan_count(with_scans(data, 33 - scans), 2**40)


def test_bytes_after_a_photo_that_look_like_scans_are_not_counted():
    """A phone appends a video to its photo."""
    check_scan_count(encode(GRADIENT, "JPEG") + b"\xff\xda\x12\x34" * 1000, 2**40)
