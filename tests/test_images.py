import contextlib
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from image_classifier.errors import ImageError, ImageTooLargeError
from image_classifier.images import FORMATS, decode, measure, stated_pixels

LIMIT = 50_000_000
# Pillow says by a warning what it thinks of damaged tags; the image is then refused or read without them.
noisy = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
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
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (body, idat)
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_an_image_of_the_size_is_not_filtered():
    assert np.array_equal(decode(encode(GRADIENT), 24, LIMIT), GRADIENT)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_each_accepted_format_gives_uint8_rgb(format):
    decoded = decode(encode(GRADIENT, format), 12, LIMIT)
    assert decoded.shape == (12, 12, 3)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - GRADIENT[::2, ::2] - [5, 5, 0]).mean() < 8


@pytest.mark.parametrize("format", ["PPM", "ICO", "TGA", "PCX", "DDS", "SGI"])
def test_other_formats_are_refused(format):
    with pytest.raises(ImageError, match="accepted formats"):
        decode(encode(GRADIENT, format), 12, LIMIT)


def test_the_eight_orientations_give_the_same_pixels():
    upright = Image.fromarray(GRADIENT[:, :16])
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
    expected = decode(encode(upright), 16, LIMIT)
    for orientation, image in stored.items():
        for format in ("PNG", "TIFF"):
            turned = decode(encode(image, format, exif=exif(orientation)), 16, LIMIT)
            assert np.array_equal(turned, expected), (orientation, format)


@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", exif(9), exif(6)[:20]]
)
def test_bad_exif_is_ignored(block):
    assert np.array_equal(decode(encode(GRADIENT, exif=block), 24, LIMIT), GRADIENT)


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
def test_each_colour_mode_has_a_rule(image, options, expected):
    options = {"format": "PNG"} | options
    decoded = decode(encode(image, **options), 9, LIMIT)
    assert np.abs(decoded.astype(int) - expected).max() <= 1


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("blue", "red")]
    for format in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:])
        assert decode(data, 9, LIMIT)[4, 4, 2] > 250


def test_the_middle_square_is_kept():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert (decode(encode(wide), 10, LIMIT) == 200).all()
    assert (decode(encode(wide.transpose(1, 0, 2)), 10, LIMIT) == 200).all()


def test_a_large_image_is_scaled_with_antialiasing():
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    for format in ("PNG", "JPEG"):
        assert np.abs(decode(encode(stripes, format), 8, LIMIT).astype(int) - 127).max() <= 3


def test_pages_floats_and_photo_compression_are_refused_in_tiff():
    page = Image.fromarray(GRADIENT)
    refused = [
        encode(page, "TIFF", save_all=True, append_images=[page]),
        encode(page, "TIFF", compression="jpeg"),
        encode(Image.new("F", (9, 9)), "TIFF"),
    ]
    for data in refused:
        with pytest.raises(ImageError, match="not accepted"):
            decode(data, 9, LIMIT)


@noisy
@pytest.mark.parametrize("side", [8000, 10_000, 40_000, 2**30])
def test_too_many_pixels_are_refused_from_the_header(side):
    for read in (lambda data: decode(data, 32, LIMIT), lambda data: measure(data, LIMIT)):
        with pytest.raises(ImageTooLargeError, match="limit of 50,000,000"):
            read(png_header(side, side))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": exif(6)}, {"quality": 5}])
def test_the_stated_pixels_of_a_jpeg_and_a_png_are_those_of_the_image(options):
    assert stated_pixels(encode(GRADIENT, "JPEG", **options)) == GRADIENT.shape[0] * GRADIENT.shape[1]
    assert stated_pixels(encode(GRADIENT)) == GRADIENT.shape[0] * GRADIENT.shape[1]


@given(st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]), st.binary(max_size=60))
def test_other_bytes_state_some_pixels_or_none(start, rest):
    assert (stated_pixels(start + rest) or 0) >= 0


def test_a_huge_text_chunk_is_refused():
    bomb = zlib.compress(b" " * 2**27)
    chunk = b"zTXtkey\0\0" + bomb
    text = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = encode(GRADIENT)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(data[:33] + text + data[33:], 24, LIMIT)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"%PDF-1.7\n", b"8BPS"]
)
def test_what_is_no_image_is_refused(data):
    with pytest.raises(ImageError):
        decode(data, 8, LIMIT)


@noisy
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_every_prefix_is_refused_or_an_image(format):
    data = encode(GRADIENT, format)
    for length in range(0, len(data), 1 if len(data) < 1200 else 3):
        try:
            assert decode(data[:length], 16, LIMIT).shape == (16, 16, 3)
        except ImageError:
            continue


def test_a_truncated_file_is_refused():
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    for format in ("JPEG", "PNG"):
        with pytest.raises(ImageError, match="cannot be decoded"):
            decode(encode(noise, format)[:-200], 16, LIMIT)


SEEDS = [encode(GRADIENT, format) for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")]


@noisy
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8))
def test_flipped_bytes_are_refused_or_an_image(data, changes):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with contextlib.suppress(ImageError):
        assert decode(bytes(damaged), 16, 1_000_000).shape == (16, 16, 3)


def test_no_other_format_is_ever_loaded():
    code = """
import sys
from image_classifier.errors import ImageError
from image_classifier.images import FORMATS, decode
for data in (b"8BPS", b"RIFF0000WEBP", b"none of all"):
    try:
        decode(data, 8, 1000)
    except ImageError:
        pass
from PIL import Image
print(sorted(Image.OPEN))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Pillow loads DIB with BMP, and PPM with every image.
    assert done.stdout == f"{sorted({*FORMATS, 'DIB', 'PPM'})}\n"


def test_the_decoder_leaves_pillow_as_it_was():
    from PIL import ImageFile

    decode(encode(GRADIENT), 8, LIMIT)
    assert Image.MAX_IMAGE_PIXELS == (1024 * 1024 * 1024 // 4 // 3)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
