"""Unusual photos, prepared by the command line: what is reported, and what their pixels are."""

import io

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from image_classifier.cli import main
from tests.datasets.samples import prepared, write


def encode(image, format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def photo(seed, width=160, height=160, format="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels).resize((width, height)), format)


def photos(counts, **options):
    return {
        f"{name}/{number}.jpg": photo(1000 * place + number, **options)
        for place, (name, count) in enumerate(counts.items())
        for number in range(count)
    }


def icon(mode, color, offset):
    image = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((offset, offset, 90, 90), outline=color, width=8)
    return encode(image.quantize(8) if mode == "P" else image.convert(mode))


def run_data(tmp_path, contents, *options):
    """The exit code and output of the command `data`."""
    folder = write(tmp_path / "photos", contents)
    result = CliRunner().invoke(main, ["data", "--home", str(tmp_path / "home"), "--data", str(folder), *options])
    return result.exit_code, result.output


def test_five_photos_are_enough_for_two_classes(tmp_path):
    code, output = run_data(tmp_path, photos({"cat": 3, "dog": 2}))
    assert code == 0
    assert "in 2 classes, 224×224 pixels" in output


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"cat": 5}, "images of only one class (cat); at least two are required"),
        ({"cat": 4, "dog": 1}, "1 class with a single image, but training and test need one each: dog; add images"),
        (dict.fromkeys("abcde", 1), "no class with two different training images, one for the test part; add images"),
    ],
)
def test_five_photos_that_cannot_be_divided_are_refused_with_the_reason(tmp_path, counts, message):
    code, output = run_data(tmp_path, photos(counts))
    assert code == 1
    assert len(output.splitlines()) == 1
    assert message in output


def test_a_class_that_a_thousandfold_larger_one_outweighs_is_named(tmp_path):
    contents = photos({"common": 1, "rare": 3})
    contents |= {f"common/{n}.png": encode(Image.new("RGB", (8, 8), (n % 256, n // 256, 9))) for n in range(3000)}
    code, output = run_data(tmp_path, contents)
    assert code == 0
    assert "1 class with less than 5 % of the training images of the largest class, common (2," in output
    assert "add images of them: rare (2)" in output


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_an_x_ray_of_16_bits_keeps_the_contrast_of_its_12_bits(tmp_path, format):
    generator = np.random.default_rng(0)
    contents = {
        f"{name}/{number}.{format.lower()}": encode(
            Image.fromarray(np.sort(generator.integers(0, 4096, (160, 160), dtype=np.uint16))), format
        )
        for name in ("healthy", "broken")
        for number in range(3)
    }
    dataset = prepared(write(tmp_path / "rays", contents), tmp_path)
    assert dataset.grayscale
    assert not dataset.mirror
    assert np.ptp(dataset.train.images, axis=(1, 2, 3)).min() > 200


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_icons_lie_on_white(tmp_path, mode):
    contents = {f"{name}/{n}.png": icon(mode, (30, 30, 30 + n), 5 * n) for name in ("ring", "disk") for n in range(4)}
    dataset = prepared(write(tmp_path / "icons", contents), tmp_path)
    assert (dataset.train.images[:, :2, :2] > 250).all()
    assert (dataset.train.images.min(axis=(1, 2, 3)) < 100).all()


def test_white_icons_that_vanish_on_white_are_named(tmp_path):
    contents = {f"{name}/{n}.png": icon("RGBA", "white", 5 * n) for name in ("ring", "disk") for n in range(4)}
    contents["ring/dark.png"] = icon("RGBA", "black", 9)
    _, output = run_data(tmp_path, contents)
    assert "8 images of a single color, after transparent pixels became white" in output
    assert "disk/0.png" in output
    assert "dark" not in output


def test_of_a_panorama_the_part_that_is_used_is_reported(tmp_path):
    code, output = run_data(tmp_path, photos({"sea": 3, "hill": 3}, width=1600))
    assert code == 0
    assert "6 images not square, so only the center is used: 10 % of the median one" in output


def test_panoramas_whose_center_shows_nothing_are_named(tmp_path):
    pixels = np.full((160, 1600, 3), 200, np.uint8)
    contents = photos({"sea": 3, "hill": 3}, width=1600)
    for number in range(3):
        pixels[:, :300] = np.random.default_rng(number).integers(0, 256, (160, 300, 3))
        contents[f"sea/left-{number}.png"] = encode(Image.fromarray(pixels))
    _, output = run_data(tmp_path, contents)
    assert "3 images of a single color, after transparent pixels became white and the center was cut out" in output
    assert "sea/left-0.png, sea/left-1.png, sea/left-2.png" in output


def test_a_photo_beyond_the_limit_on_pixels_is_skipped_with_advice(tmp_path):
    contents = photos({"cat": 5, "dog": 5}) | {"cat/large.jpg": photo(7, width=320, height=200)}
    code, output = run_data(tmp_path, contents, "--max-pixels", "40000")
    assert code == 0
    assert "cat/large.jpg (the image has 320 x 200 pixels, more than the limit of 40,000; shrink it, or raise" in output


def test_photos_of_which_half_are_the_same_are_reported_and_not_tested_on(tmp_path):
    contents = photos({"cat": 20, "dog": 20}) | {f"dog/copy-{n}.jpg": photo(1000) for n in range(20)}
    code, output = run_data(tmp_path, contents)
    assert code == 0
    assert "20 training images of" in output
    assert "identical to others of the same class" in output
    dataset = prepared(tmp_path / "photos", tmp_path)
    assert not set(dataset.test.hashes) & set(dataset.train.hashes)
