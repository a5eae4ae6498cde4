import contextlib
import functools
import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.JpegImagePlugin import JpegImageFile

from image_classifier.errors import ImageError, ImageTooLargeError
from image_classifier.images import decoder
from image_classifier.images.decoder import (
    CROP,
    FORMATS,
    PAD,
    PAD_GRAY,
    decode,
    decode_with_metadata,
    fit_to_square,
    read_dimensions,
)
from image_classifier.settings import Settings

LIMIT = 50_000_000
# Pillow warns about damaged tags, and then refuses the image or reads it without them.
damaged_tags = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
GRADIENT = np.stack(
    np.broadcast_arrays(np.arange(0, 240, 10)[:, None], np.arange(0, 240, 10)[None], 100), axis=2
).astype(np.uint8)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def png_header(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"")
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (body, idat)
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_an_image_that_already_has_the_size_is_not_filtered():
    assert np.array_equal(decode(encode(GRADIENT), 24, LIMIT), GRADIENT)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_each_accepted_format_is_decoded_to_uint8_rgb(format):
    decoded = decode(encode(GRADIENT, format), 12, LIMIT)
    assert decoded.shape == (12, 12, 3)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - GRADIENT[::2, ::2] - [5, 5, 0]).mean() < 8


@pytest.mark.parametrize("format", ["PPM", "ICO", "TGA", "PCX", "DDS", "SGI"])
def test_other_formats_are_refused(format):
    with pytest.raises(ImageError, match="not an image in an accepted format"):
        decode(encode(GRADIENT, format), 12, LIMIT)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("scale", [1, 4, 20])
def test_the_eight_orientations_are_decoded_to_the_same_pixels(format, scale):
    # Blocks of one color look the same rotated before or after JPEG compression, at every scale.
    blocks = np.repeat(np.repeat(GRADIENT[::8, :16:8], 16 * scale, axis=0), 16 * scale, axis=1)
    upright = Image.fromarray(blocks)
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }
    options = {"WEBP": {"lossless": True}, "JPEG": {"subsampling": 0}}.get(format, {})
    expected = decode(encode(upright, format, **options), 16, LIMIT)
    assert len(np.unique(expected.reshape(-1, 3), axis=0)) > 3
    for orientation, image in stored.items():
        upright_again = decode(encode(image, format, exif=exif(orientation), **options), 16, LIMIT)
        # Columns and rows are filtered and rounded one after the other.
        assert np.abs(upright_again.astype(int) - expected).max() <= 1, orientation


@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", exif(9), exif(6)[:20]])
def test_damaged_exif_is_ignored(block):
    assert np.array_equal(decode(encode(GRADIENT, exif=block), 24, LIMIT), GRADIENT)


# A complete Photoshop file of 1 x 1 pixel.
PHOTOSHOP = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 1, 1, 8, 3) + b"\0" * 15
RED = Image.new("RGB", (9, 9), (255, 0, 0))
CLEAR = Image.new("RGBA", (9, 9), (255, 0, 0, 0))
PALETTE_CLEAR = RED.convert("P")


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (RED, {}, (255, 0, 0)),
        (Image.new("L", (9, 9), 77), {}, (77, 77, 77)),
        (Image.new("1", (9, 9), 1), {}, (255, 255, 255)),
        (RED.convert("P"), {}, (255, 0, 0)),
        (PALETTE_CLEAR, {"transparency": PALETTE_CLEAR.getpixel((0, 0))}, (255, 255, 255)),
        (CLEAR, {}, (255, 255, 255)),
        (Image.new("RGBA", (9, 9), (0, 0, 0, 128)), {}, (127, 127, 127)),
        (Image.new("LA", (9, 9), (10, 0)), {}, (255, 255, 255)),
        (RED, {"transparency": (255, 0, 0)}, (255, 255, 255)),
        (Image.fromarray(np.full((9, 9), 0x8012, np.uint16)), {}, (128, 128, 128)),
        (Image.fromarray(np.full((9, 9), 0x8012, np.int32)), {"format": "TIFF"}, (128, 128, 128)),
        (RED.convert("CMYK"), {"format": "TIFF"}, (255, 0, 0)),
        (Image.new("CMYK", (9, 9), (0, 0, 0, 0)), {"format": "JPEG"}, (255, 255, 255)),
        (Image.fromarray(np.full((9, 9), 0x8012, np.uint16)), {"format": "TIFF"}, (128, 128, 128)),
    ],
)  # fmt: skip
def test_each_color_mode_is_converted_to_rgb(image, options, expected):
    options = {"format": "PNG"} | options
    decoded = decode(encode(image, **options), 9, LIMIT)
    assert np.abs(decoded.astype(int) - expected).max() <= 1


def test_the_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (9, 9), color) for color in ("blue", "red")]
    for format in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:])
        assert decode(data, 9, LIMIT)[4, 4, 2] > 250


def mpo(*pictures, **options):
    return encode(pictures[0], "MPO", save_all=True, append_images=list(pictures[1:]), **options)


@pytest.fixture(scope="module")
def two_pictures():
    """A photo of a drone or phone: the picture and its smaller preview, as one file."""
    photo = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    large = Image.fromarray(photo).resize((400, 320), Image.Resampling.BICUBIC)
    return mpo(large, large.resize((40, 32)), quality=90)


def test_a_jpeg_with_two_pictures_is_decoded_as_the_jpeg_that_its_first_picture_is(two_pictures, monkeypatch):
    reduced = []
    draft = JpegImageFile.draft
    monkeypatch.setattr(JpegImageFile, "draft", lambda self, *size: (reduced.append(size), draft(self, *size))[1])
    pixels, dimensions, format = decode_with_metadata(two_pictures, 16, LIMIT)
    assert (dimensions, format) == ((400, 320), "JPEG")
    assert reduced == [(None, (32, 32))]
    first = two_pictures[: two_pictures.index(b"\xff\xd9\xff\xd8") + 2]
    np.testing.assert_array_equal(pixels, decode(first, 16, LIMIT))
    assert read_dimensions(two_pictures, LIMIT) == (400, 320)


def test_a_damaged_index_of_pictures_does_not_refuse_the_photo(two_pictures):
    whole, start = decode(two_pictures, 16, LIMIT), two_pictures.index(b"MPF\0") + 4
    for place in range(start, start + 80):
        for value in (0, 1, 0x7F, 0xFF):
            damaged = bytearray(two_pictures)
            damaged[place] = value
            np.testing.assert_array_equal(decode(bytes(damaged), 16, LIMIT), whole, err_msg=f"{place} {value}")


@pytest.mark.slow
def test_damaged_metadata_prints_no_warning(two_pictures, tmp_path):
    """Python prints warnings once, and a program in this process may have changed that."""
    start = two_pictures.index(b"MPF\0") + 4
    odd = {
        "index": two_pictures[:start] + bytes(90) + two_pictures[start + 90 :],
        "tags": tiff((273, 4, 2**30, 8)),
        "pixels": png_header(12_000, 12_000),
        "exif": encode(GRADIENT, "TIFF", exif=exif(6)[6:40]),
    }
    for name, data in odd.items():
        (tmp_path / name).write_bytes(data)
    code = """
import contextlib, pathlib, sys
from image_classifier.errors import ImageError
from image_classifier.images.decoder import decode
for path in pathlib.Path(sys.argv[1]).iterdir():
    with contextlib.suppress(ImageError):
        decode(path.read_bytes(), 8, 10**9)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypmif1", "HEIC"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x18ftypisom", "a video"),
        (b"\0\0\0\x18ftypcrx ", "a camera's raw file"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"%PDF-1.7", "a PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", "SVG"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
    ],
)
def test_a_known_format_that_is_not_accepted_is_named(start, name):
    advice = {"a web page": "download the image", "a Git LFS pointer": "git lfs pull"}.get(name, "convert it to JPEG")
    with pytest.raises(ImageError, match=f"the file is {name}, not an image in an accepted format: .*; .*{advice}"):
        decode(start + bytes(100), 8, LIMIT)


INKS = np.stack(np.broadcast_arrays(np.arange(0, 240, 10)[:, None], np.arange(0, 240, 10)[None], 60, 30), axis=2)


def test_the_inverted_inks_of_adobe_are_decoded_as_those_of_a_tiff():
    inks = Image.fromarray(INKS.astype(np.uint8), "CMYK")
    jpeg, tiff_of_inks = encode(inks, "JPEG", quality=100), encode(inks, "TIFF")
    assert b"Adobe" in jpeg
    difference = decode(jpeg, 24, LIMIT).astype(int) - decode(tiff_of_inks, 24, LIMIT)
    assert np.abs(difference).max() <= 8
    # Adobe's transform 2: the inks as luminance and chrominance (YCCK).
    place = jpeg.index(b"Adobe") + 11
    ycck = jpeg[:place] + b"\2" + jpeg[place + 1 :]
    assert decode(ycck, 24, LIMIT).shape == (24, 24, 3)
    assert not np.array_equal(decode(ycck, 24, LIMIT), decode(jpeg, 24, LIMIT))


def png_with(kind, body):
    data = encode(GRADIENT)
    return (
        data[:33] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) + data[33:]
    )


@damaged_tags
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"iCCP", b"profile\0\0not compressed"),
        (b"eXIf", b"MM\0*\xff\xff\xff\xff"),
        (b"tEXt", b"comment\0" + b"x" * 2**20),
        (b"acTL", b"\0\0\0\0\0\0\0\0"),
        (b"gAMA", b"\0\0\0\0"),
        (b"pHYs", bytes(9)),
    ],
)
def test_damaged_or_large_metadata_of_a_png_does_not_change_its_pixels(kind, body):
    np.testing.assert_array_equal(decode(png_with(kind, body), 24, LIMIT), GRADIENT)


@damaged_tags
@pytest.mark.parametrize(
    ("data", "format"),
    [
        (png_with(b"iCCP", b""), "PNG"),
        (b"GIF89a", "GIF"),
        (b"RIFF\0\0\0\0WEBP", "WEBP"),
        (b"II*\0\x08", "TIFF"),
        (b"BM\0\0", "BMP"),
    ],
)
def test_a_damaged_header_is_not_called_another_format(data, format):
    with pytest.raises(ImageError, match=f"cannot be decoded: the header of the {format} is damaged"):
        decode(data, 8, LIMIT)


RAMP = np.arange(256, dtype=np.uint16).repeat(4).reshape(32, 32)


def gray(values, format, order="<"):
    return encode(Image.fromarray(values.astype(f"{order}u2")), format)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(("format", "order"), [("PNG", "<"), ("TIFF", "<"), ("TIFF", ">")])
def test_values_of_fewer_than_16_bits_keep_their_range(bits, format, order):
    """As of an X-ray, a thermal or a depth image; 16 bits are shifted as before."""
    decoded = decode(gray(RAMP << (bits - 8), format, order), 32, LIMIT)
    np.testing.assert_array_equal(decoded, np.stack([RAMP] * 3, axis=2))


@pytest.mark.parametrize(
    ("largest", "gray_level"), [(255, 255), (256, 64), (1023, 255), (1024, 64), (4096, 64), (16_384, 64), (65_535, 255)]
)
def test_the_largest_value_of_an_image_decides_its_bits(largest, gray_level):
    values = np.zeros((9, 9), np.uint16)
    values[4, 4] = largest
    for format in ("PNG", "TIFF"):
        assert decode(gray(values, format), 9, LIMIT)[4, 4].tolist() == [gray_level] * 3


def test_the_largest_value_of_a_large_image_is_that_of_all_its_strips(monkeypatch):
    values = np.full((60, 40), 1000, np.uint16)
    values[-1, -1] = 4000
    whole = decode(gray(values, "PNG"), 16, LIMIT)
    assert whole[0, 0, 0] == 1000 >> 4
    monkeypatch.setattr(decoder, "_STRIP_PIXELS", 100)
    np.testing.assert_array_equal(decode(gray(values, "PNG"), 16, LIMIT), whole)


def test_the_bits_that_a_tiff_states_are_those_of_a_dark_image_too():
    dark = struct.pack("<9H", *[800] * 9)

    def level(*tags):
        return decode(tiff((258, 3, 1, 16), (279, 4, 1, 18), *tags, pixels=dark), 3, LIMIT)[0, 0, 0]

    assert level() == 800 >> 2
    assert level((281, 3, 1, 4095)) == 800 >> 4
    assert level((281, 3, 1, 16_383)) == 800 >> 6
    assert level((281, 3, 1, 65_535)) == 800 >> 2  # the default of many programs
    assert level((281, 3, 1, 100)) == 800 >> 2  # less than the largest value
    packed = bytes([0x32, 0x03, 0x20, 0x32, 0x00]) * 3  # 800 in 12 bits, three times in a row
    twelve = tiff((258, 3, 1, 12), (279, 4, 1, 15), pixels=packed)
    assert (decode(twelve, 3, LIMIT) == 800 >> 4).all()


@pytest.mark.parametrize(("low", "high"), [(-1024, 3071), (0, 65_536), (-1, -1)])
def test_values_that_16_bits_cannot_hold_are_refused_with_their_range(low, high):
    """As of a computed tomography, whose scale starts at -1,024."""
    values = np.full((9, 9), low, np.int32)
    values[0] = high
    with pytest.raises(ImageError, match=f"values from {low:,} to {high:,} are not accepted; .* from 0 to 65,535"):
        decode(encode(Image.fromarray(values), "TIFF"), 9, LIMIT)


def test_of_16_bits_per_color_channel_the_upper_8_are_used():
    samples = np.broadcast_to(np.array([0x1234, 0xABCD, 0x00FF], ">u2"), (3, 3, 3))
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 3, 3, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    assert (decode(data, 3, LIMIT) == (0x12, 0xAB, 0x00)).all()


def run_length_encoded(width, height, runs, *, bits=8):
    """A BMP whose pixels are run-length encoded, with 256 grays."""
    palette = b"".join(bytes([level] * 3 + [0]) for level in range(256))
    start = 54 + len(palette)
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 1 if bits == 8 else 2, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + sizes + palette + runs


def test_a_run_length_encoded_bmp_is_decoded():
    assert (decode(run_length_encoded(16, 16, b"\x10\x40\0\0" * 16), 16, LIMIT) == 0x40).all()


@pytest.mark.parametrize(
    "data",
    [
        run_length_encoded(1000, 1000, b"\x01\x05" * 2**19),
        run_length_encoded(1000, 1000, b"\x01\x05" * 2**17, bits=4),
        run_length_encoded(50_000_000, 1, b"\x01\x05\0\0"),
        run_length_encoded(1025, 1024, b"\x01\x05\0\0" * 1024),
    ],
    ids=["1 MiB", "256 KiB", "one row of 50 million pixels", "more than a million pixels"],
)
def test_a_large_run_length_encoded_bmp_is_refused_before_it_is_decoded(data, monkeypatch):
    monkeypatch.setattr(BmpImagePlugin.BmpRleDecoder, "decode", None)
    with pytest.raises(ImageTooLargeError, match="run-length encoded BMP .* 262,144 bytes and 1,048,576 pixels"):
        decode(data, 8, LIMIT)


def test_no_other_accepted_format_is_decoded_in_python():
    plugins = [BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin]
    classes = [each for plugin in plugins for each in vars(plugin).values() if isinstance(each, type)]
    assert {each for each in classes if issubclass(each, ImageFile.PyDecoder)} == {BmpImagePlugin.BmpRleDecoder}


def test_the_center_square_is_kept():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert (decode(encode(wide), 10, LIMIT) == 200).all()
    assert (decode(encode(wide.transpose(1, 0, 2)), 10, LIMIT) == 200).all()


def test_a_large_image_is_resized_with_antialiasing():
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    for format in ("PNG", "JPEG"):
        assert np.abs(decode(encode(stripes, format), 8, LIMIT).astype(int) - 127).max() <= 3


MODES = {
    "RGB": lambda pixels: Image.fromarray(pixels),
    "L": lambda pixels: Image.fromarray(pixels[..., 0]),
    "1": lambda pixels: Image.fromarray(pixels[..., 0]).convert("1"),
    "P": lambda pixels: Image.fromarray(pixels).quantize(40),
    "RGBA": lambda pixels: Image.fromarray(np.concatenate([pixels, pixels[..., :1]], axis=2)),
    "LA": lambda pixels: Image.fromarray(pixels[..., :2].copy(), "LA"),
    "CMYK": lambda pixels: Image.fromarray(pixels).convert("CMYK"),
    "I;16": lambda pixels: Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
    "transparent": lambda pixels: Image.fromarray(pixels).quantize(40),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dimensions", [(61, 97), (97, 61), (24, 200), (200, 24), (130, 130), (1, 70)])
def test_an_image_converted_in_strips_has_the_same_pixels(mode, dimensions, monkeypatch):
    width, height = dimensions
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    options = {"transparency": 3} if mode == "transparent" else {}
    data = encode(MODES[mode](pixels), "TIFF" if mode == "CMYK" else "PNG", **options)
    whole = decode(data, 24, LIMIT)
    for strip in (1, 500, 1000, 5000):
        monkeypatch.setattr(decoder, "_STRIP_PIXELS", strip)
        np.testing.assert_array_equal(decode(data, 24, LIMIT), whole)


@pytest.mark.parametrize(
    ("dimensions", "format", "locked"),
    [((100, 99), "PNG", 0), ((100, 101), "PNG", 1), ((50, 49), "WEBP", 0), ((50, 51), "WEBP", 1)],
)
def test_only_a_large_image_is_decoded_under_the_lock(dimensions, format, locked, monkeypatch):
    class Lock:
        acquired = 0

        def __enter__(self):
            self.acquired += 1

        def __exit__(self, *_):
            pass

    lock = Lock()
    monkeypatch.setattr(decoder, "_LARGE_IMAGE_PIXELS", 10_000)
    decode_with_metadata(encode(Image.new("L", dimensions), format), 8, LIMIT, lock)
    assert lock.acquired == locked


def test_the_limit_for_webp_is_a_quarter_of_the_pixels():
    assert decode(encode(Image.new("L", (100, 25)), "WEBP"), 8, 10_000).shape == (8, 8, 3)
    with pytest.raises(ImageTooLargeError, match="limit of 2,500 for WEBP"):
        decode(encode(Image.new("L", (101, 25)), "WEBP"), 8, 10_000)
    assert decode(encode(Image.new("L", (100, 100)), "PNG"), 8, 10_000).shape == (8, 8, 3)


@pytest.mark.parametrize("dimensions", [(1, 1), (65_500, 1), (1, 65_500), (2, 1), (7, 3)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_the_smallest_and_the_narrowest_images_are_decoded(dimensions, format):
    decoded = decode(encode(Image.new("RGB", dimensions, (200, 100, 50)), format, quality=100), 16, LIMIT)
    assert np.abs(decoded.astype(int) - (200, 100, 50)).max() <= 3


def test_a_tiff_with_pages_floats_or_jpeg_compression_is_refused():
    page = Image.fromarray(GRADIENT)
    refused = [
        encode(page, "TIFF", save_all=True, append_images=[page]),
        encode(page, "TIFF", compression="jpeg"),
        encode(Image.new("F", (9, 9)), "TIFF"),
    ]
    for data in refused:
        with pytest.raises(ImageError, match="not accepted"):
            decode(data, 9, LIMIT)


def tiff(*changes, next_directory=0, pixels=b"\x40" * 27):
    """A TIFF of 3 x 3 grayscale pixels; each change is the tag, type, count and value of an entry."""
    tags = {
        256: (4, 1, 3),  # width
        257: (4, 1, 3),  # height
        258: (3, 1, 8),  # bits
        259: (3, 1, 1),  # no compression
        262: (3, 1, 1),  # black is zero
        273: (4, 1, 0),  # offset of the pixels
        277: (3, 1, 1),  # channels
        278: (4, 1, 3),  # rows per strip
        279: (4, 1, 9),  # bytes per strip
    }
    for tag, *values in changes:
        tags[tag] = tuple(values)
    size = 8 + 2 + 12 * len(tags) + 4
    if tags[273] == (4, 1, 0):
        tags[273] = (4, 1, size)
    entries = b"".join(struct.pack("<HHII", tag, *values) for tag, values in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", next_directory) + pixels


def test_a_simple_tiff_is_decoded():
    assert (decode(tiff(), 3, LIMIT) == 0x40).all()


@damaged_tags
@pytest.mark.parametrize(
    "data",
    [
        tiff((256, 4, 1, 2**31), (257, 4, 1, 2**31)),
        tiff((256, 4, 1, 7000), (257, 4, 1, 8000)),
        tiff((273, 4, 1, 2**31)),
        tiff((273, 4, 2**30, 8)),
        tiff((258, 3, 1, 77)),
        tiff((259, 3, 1, 7)),
        tiff((259, 3, 1, 50000)),
        tiff((277, 3, 1, 200)),
        tiff(pixels=b""),
    ],
    ids=[
        "2^62 pixels",
        "56 million pixels",
        "pixels beyond the end of the file",
        "a billion strips",
        "77 bits",
        "JPEG inside",
        "Zstandard inside",
        "200 channels",
        "no pixels",
    ],
)
@pytest.mark.timeout(30)
def test_a_tiff_whose_tags_do_not_match_its_content_is_refused_without_a_hang(data):
    with pytest.raises(ImageError):
        decode(data, 3, LIMIT)


@damaged_tags
@pytest.mark.parametrize(
    "data",
    [
        tiff(next_directory=8),
        tiff((279, 4, 1, 2**31)),
        tiff((278, 4, 1, 2**31)),
        tiff((322, 4, 1, 2**31), (323, 4, 1, 2**31), (324, 4, 1, 8)),
        tiff((274, 3, 1, 200)),
    ],
    ids=[
        "a directory that links to itself",
        "a strip of 2 GiB",
        "2^31 rows per strip",
        "tiles of 2^62 pixels",
        "orientation 200",
    ],
)
@pytest.mark.timeout(30)
def test_a_tiff_with_hostile_tags_is_refused_or_decoded_without_a_hang(data):
    with contextlib.suppress(ImageError):
        assert (decode(data, 3, LIMIT) == 0x40).all()


@damaged_tags
@pytest.mark.parametrize("side", [8000, 10_000, 40_000, 2**30])
def test_too_many_pixels_are_refused_by_the_header(side):
    for read in (lambda data: decode(data, 32, LIMIT), lambda data: read_dimensions(data, LIMIT)):
        with pytest.raises(ImageTooLargeError, match="limit of 50,000,000"):
            read(png_header(side, side))


def test_only_two_pages_of_a_tiff_with_many_are_read(monkeypatch):
    page = tiff()[8 : 8 + 2 + 12 * 9]
    pages = b"".join(page + struct.pack("<I", 8 + (number + 1) * (len(page) + 4)) for number in range(20_000))
    loaded = []
    load = TiffImagePlugin.ImageFileDirectory_v2.load
    monkeypatch.setattr(
        TiffImagePlugin.ImageFileDirectory_v2, "load", lambda self, file: (loaded.append(1), load(self, file))
    )
    with pytest.raises(ImageError, match="several pages"):
        decode(tiff()[:8] + pages + page + bytes(100), 3, LIMIT)
    assert len(loaded) <= 2


@functools.cache
def bomb():
    return zlib.compress(b" " * 2**27)


@pytest.mark.parametrize(
    "start", [b"zTXtkey\0\0", b"iTXtkey\0\1\0\0\0", b"iCCPkey\0\0"], ids=lambda start: start[:4].decode()
)
def test_a_png_chunk_that_unpacks_to_128_mib_is_not_unpacked(start):
    chunk = start + bomb()
    text = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = encode(GRADIENT)
    tracemalloc.start()
    with contextlib.suppress(ImageError):
        np.testing.assert_array_equal(decode(data[:33] + text + data[33:], 24, LIMIT), GRADIENT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"%PDF-1.7\n", b"8BPS", PHOTOSHOP]
)
def test_bytes_that_are_not_an_image_are_refused(data):
    with pytest.raises(ImageError):
        decode(data, 8, LIMIT)


@damaged_tags
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("PNG", {"compress_level": 0}),
        ("WEBP", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
    ],
)
def test_a_truncated_image_is_refused_unless_all_pixels_are_there(format, options):
    data = encode(GRADIENT, format, **options)
    whole = decode(data, 16, LIMIT)
    decoded = 0
    for length in range(len(data)):
        try:
            np.testing.assert_array_equal(decode(data[:length], 16, LIMIT), whole, err_msg=f"{length}")
            decoded += 1
        except ImageError:
            continue
    # PNG ends with two checksums and an end chunk.
    assert decoded <= 24


def test_the_error_of_a_truncated_image_has_a_reason():
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    for format in ("JPEG", "PNG"):
        with pytest.raises(ImageError, match="cannot be decoded"):
            decode(encode(noise, format)[:-200], 16, LIMIT)


SEEDS = [encode(GRADIENT, format) for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")]


@damaged_tags
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8))
def test_an_image_with_changed_bytes_is_refused_or_decoded(data, changes):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with contextlib.suppress(ImageError):
        assert decode(bytes(damaged), 16, 1_000_000).shape == (16, 16, 3)


@pytest.mark.slow
def test_pillow_loads_no_plugins_of_other_formats():
    code = """
import sys
from image_classifier.errors import ImageError
from image_classifier.images.decoder import FORMATS, decode
for data in (b"8BPS", b"RIFF0000WEBP", b"not an image"):
    try:
        decode(data, 8, 1000)
    except ImageError:
        pass
from PIL import BmpImagePlugin, Image, TiffImagePlugin
from PIL.JpegImagePlugin import JpegImageFile
print(sorted(Image.OPEN))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Pillow loads DIB with BMP, and PPM always.
    assert done.stdout == f"{sorted({*FORMATS, 'DIB', 'PPM'})}\n"


def test_the_decoder_does_not_change_the_settings_of_pillow():
    from PIL import ImageFile

    decode(encode(GRADIENT), 8, LIMIT)
    assert Image.MAX_IMAGE_PIXELS == (1024 * 1024 * 1024 // 4 // 3)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def smooth(width, height):
    """A photo-like image without equal sides or halves."""
    pixels = np.random.default_rng(width * height).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def padded(image, size):
    """The whole image, resized by Pillow, in the middle of a gray square."""
    longer = max(image.size)
    width, height = (max(1, round(side * size / longer)) for side in image.size)
    square = Image.new("RGB", (size, size), (PAD_GRAY,) * 3)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    return np.asarray(square)


SHAPES = [(300, 200), (200, 300), (101, 100), (1600, 160), (160, 1600), (20, 7), (500, 1), (1, 500), (96, 96)]


@pytest.mark.parametrize("dimensions", SHAPES, ids=str)
def test_a_padded_image_is_whole_in_the_middle_of_a_gray_square(dimensions):
    image = smooth(*dimensions)
    expected = padded(image, 96)
    assert np.array_equal(decode(encode(image), 96, LIMIT, PAD), expected)
    assert np.array_equal(fit_to_square(image, 96, PAD), expected)
    assert (expected[:4] == PAD_GRAY).all() == (dimensions[0] > 1.1 * dimensions[1])
    assert (expected[:, :4] == PAD_GRAY).all() == (dimensions[1] > 1.1 * dimensions[0])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_a_padded_image_of_each_mode_lies_on_gray(mode):
    pixels = decode(encode(smooth(90, 45).convert(mode)), 30, LIMIT, PAD)
    assert (pixels[[0, 6, 23, 29]] == PAD_GRAY).all()
    assert np.ptp(pixels[8:22]) > 100


@pytest.mark.parametrize("dimensions", [(3000, 500), (500, 3000), (60_000, 20), (20, 60_000), (1100, 1000)], ids=str)
@pytest.mark.parametrize("size", [64, 224])
def test_a_large_image_in_strips_has_the_pixels_of_one_piece(dimensions, size):
    image = smooth(*dimensions)
    data = encode(image, compress_level=1)
    width, height = dimensions
    side = min(dimensions)
    left, top = (width - side) / 2, (height - side) / 2
    cropped = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    # Pillow filters an image that is several times as high as wide along the columns first, and rounds in between.
    assert np.abs(decode(data, size, LIMIT).astype(int) - cropped).max() <= 1
    difference = np.abs(decode(data, size, LIMIT, PAD).astype(int) - padded(image, size))
    # A side of more than 16,384 pixels may be averaged over blocks first.
    assert difference.max() <= (4 if max(dimensions) > 2**14 else 1)


def test_a_padded_photo_has_the_shape_of_the_original_after_scaling_in_the_dct():
    image = smooth(4481, 449)
    difference = np.abs(decode(encode(image, "JPEG", quality=95), 224, LIMIT, PAD).astype(int) - padded(image, 224))
    assert difference.mean() < 1
    assert difference.max() < 30


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_padding_follows_the_orientation(format, orientation):
    upright = smooth(200, 131)  # the gray margins differ by a pixel
    transposition = {5: 5, 6: 2, 7: 6, 8: 4}
    inverse = {1: None, 2: 0, 3: 3, 4: 1, **transposition}[orientation]
    stored = upright if inverse is None else upright.transpose(Image.Transpose(inverse))
    options = {"WEBP": {"lossless": True}, "JPEG": {"subsampling": 0, "quality": 100}}.get(format, {})
    pixels = decode(encode(stored, format, exif=exif(orientation), **options), 64, LIMIT, PAD)
    difference = np.abs(pixels.astype(int) - padded(upright, 64))
    assert difference.max() <= (6 if format == "JPEG" else 3)


@pytest.mark.parametrize("framing", [CROP, PAD])
@pytest.mark.parametrize("dimensions", [(1, 12_000_000), (12_000_000, 1)], ids=str)
def test_an_image_that_is_one_pixel_wide_or_high_takes_little_memory(dimensions, framing):
    """All its rows at the width of the model would take 3 GB, and a filter over its side 380 MB."""
    data = encode(Image.new("L", dimensions, 90), compress_level=1)
    code = (
        "import sys, resource; from image_classifier.images import decode\n"
        "resource.setrlimit(resource.RLIMIT_AS, (600_000_000,) * 2)\n"
        f"print(decode(sys.stdin.buffer.read(), 224, {LIMIT}, {framing!r}).mean())"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(90 if framing == CROP else PAD_GRAY, abs=1)


@pytest.mark.parametrize("framing", [CROP, PAD])
def test_a_photo_of_50_megapixels_is_accepted_by_default(framing):
    photo = encode(Image.new("RGB", (8192, 6144), (200, 100, 50)), "JPEG", quality=90)
    pixels = decode(photo, 64, Settings().max_pixels, framing)
    assert np.abs(pixels[32].astype(int) - (200, 100, 50)).max() <= 3
