import contextlib
import functools
import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image, TiffImagePlugin

from image_classifier.errors import ImageError, ImageTooLargeError
from image_classifier.images import decoder
from image_classifier.images.decoder import FORMATS, decode, decode_with_metadata, read_dimensions

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
from PIL import Image, TiffImagePlugin
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
