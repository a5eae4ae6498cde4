import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import image_classifier
from image_classifier.datasets import preparation
from image_classifier.datasets.dataset import ORIGINAL_FORMATS
from image_classifier.datasets.preparation import decode_sample
from image_classifier.datasets.shard_decoding import decode_stored_image
from image_classifier.errors import DataError
from image_classifier.images import CROP, PAD, decode, fit_to_square
from tests.datasets.samples import HOME, cached_files, encoded, files, prepared, request_for, write


def test_images_are_decoded_and_read_only(tmp_path, pets):
    dataset = prepared(pets, tmp_path, image_size=9)
    for part in (dataset.train, dataset.test):
        assert isinstance(part.images, np.memmap)
        for image, name in zip(part.images, part.names, strict=True):
            assert np.array_equal(image, decode((pets / name).read_bytes(), 9, 10**6))
    with pytest.raises(ValueError, match="read-only"):
        dataset.train.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        dataset.train.labels[0] = 0


def test_the_stored_size_and_format_of_each_image_are_known(tmp_path):
    content = files("cat dog", 5, side=20) | {"cat/wide.jpg": encoded(99, 30, "JPEG")}
    dataset = prepared(write(tmp_path / "pets", content), tmp_path, image_size=8)
    originals = np.concatenate([dataset.train.originals, dataset.test.originals])
    names = [*dataset.train.names, *dataset.test.names]
    for name, (width, height, format) in zip(names, originals, strict=True):
        jpeg = name.endswith(".jpg")
        assert (width, height) == ((30, 30) if jpeg else (20, 20))
        assert ORIGINAL_FORMATS[format] == ("JPEG" if jpeg else "PNG")


def test_grayscale_images_in_color_files_are_grayscale_and_not_mirrored(tmp_path):
    from PIL import Image

    for number in range(12):
        path = tmp_path / "glyphs" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (number,) * 3).save(path)
    dataset = prepared(tmp_path / "glyphs", tmp_path)
    assert (dataset.grayscale, dataset.mirror) == (True, False)


def test_the_image_size_can_be_set(tmp_path, pets):
    assert prepared(pets, tmp_path, image_size=16).train.images.shape[1:] == (16, 16, 3)
    with pytest.raises(DataError, match="image_size is 5, but must be at least 8"):
        prepared(pets, tmp_path, image_size=5)


def test_a_home_that_is_a_file_is_an_error(tmp_path, pets):
    (tmp_path / HOME).write_text("")
    with pytest.raises(DataError, match=r"cannot write .*home.* \(.*\); set home"):
        prepared(pets, tmp_path)


PREPARE = """
import sys
from pathlib import Path
from pathlib import Path
from image_classifier.datasets import DataRequest, prepare
if __name__ == "__main__":
    print(prepare(DataRequest(Path(sys.argv[2]), sys.argv[1], 0, 10**7, 10**9, 0.2, 60, "auto", "auto")).digest)
"""


@pytest.mark.slow
def test_processes_can_prepare_the_same_data_set_at_the_same_time(tmp_path, pets):
    command = [sys.executable, "-c", PREPARE, str(pets), str(tmp_path / HOME)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    digests = {run.communicate(timeout=60)[0] for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert len(digests) == 1
    assert len(cached_files(tmp_path)) == 8


LIMITED = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
{PREPARE}"""


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_leaves_no_files(tmp_path, pets):
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(pets), str(tmp_path / HOME)], capture_output=True, text=True, timeout=60
    )
    assert "DataError: no space left for the prepared data in" in run.stderr.splitlines()[-1]
    assert cached_files(tmp_path) == []


MEASURE = f"""
import resource
{PREPARE}
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        print(resource.getrusage(who).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    """45 MiB of images add less than 15 MiB to the parent and to the workers."""
    few, many = (
        write(
            tmp_path / str(count),
            {f"{name}/{n}.bmp": encoded(n, 128, "BMP") for name in ("cat", "dog") for n in range(count)},
        )
        for count in (60, 480)
    )

    def peaks(data):
        command = [sys.executable, "-c", MEASURE, str(data), str(tmp_path / HOME)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return [int(line) / 1024 for line in run.stdout.split()[-2:]]

    for before, after in zip(peaks(few), peaks(many), strict=True):
        assert after - before < 15


@pytest.mark.slow
def test_a_change_of_the_decoder_prepares_cached_data_again(tmp_path):
    """Run with a copy of this package, whose decoder resizes with another filter."""
    folder = write(tmp_path / "pets", files(side=100))
    package = tmp_path / "changed" / "image_classifier"
    shutil.copytree(Path(image_classifier.__file__).parent, package)
    decoder = package / "images" / "decoder.py"

    def pixels():
        run = subprocess.run(
            [
                sys.executable,
                "-c",
                PREPARE.replace(".digest", ".train.images.sum()"),
                str(folder),
                str(tmp_path / HOME),
            ],
            env=os.environ | {"PYTHONPATH": str(package.parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(run.stdout)

    def set_filter(name):
        decoder.write_text(re.sub(r"Resampling\.\w+", f"Resampling.{name}", decoder.read_text()))

    first = pixels()
    entries = cached_files(tmp_path)
    set_filter("NEAREST")
    assert pixels() != first
    set_filter("BICUBIC")
    assert pixels() == first
    assert len(cached_files(tmp_path)) == 2 * len(entries)


def test_the_same_images_in_two_folders_have_their_own_names_and_warnings(tmp_path):
    first = prepared(write(tmp_path / "one", files() | {"notes.txt": b""}), tmp_path)
    moved = {name.replace(".png", "-copy.png"): content for name, content in files().items()}
    second = prepared(write(tmp_path / "two", moved | {"cat/x.png": b"x"}), tmp_path)
    assert first.digest == second.digest
    assert first.warnings == ("skipped 1 non-image file: notes.txt",)
    assert len(second.warnings) == 1
    assert second.warnings[0].startswith("skipped 1 image that cannot be read: cat/x.png")
    assert all("-copy" in name for name in second.train.names)


@pytest.fixture
def wide(tmp_path):
    return write(tmp_path / "wide", files("cat dog", 8, side=12, width=30))


@pytest.mark.parametrize("framing", [CROP, PAD])
def test_images_are_prepared_with_the_framing(tmp_path, wide, framing):
    dataset = prepared(wide, tmp_path, image_size=9, framing=framing)
    assert dataset.framing == framing
    for part in (dataset.train, dataset.test):
        for image, name in zip(part.images, part.names, strict=True):
            assert np.array_equal(image, decode((wide / name).read_bytes(), 9, 10**6, framing))


def test_a_request_for_the_size_that_was_chosen_decodes_nothing_again(tmp_path, wide, monkeypatch):
    chosen = prepared(wide, tmp_path)
    monkeypatch.setattr(preparation, "decode_source", None)
    again = prepared(wide, tmp_path, image_size=chosen.image_size)
    assert (again.digest, again.warnings) == (chosen.digest, chosen.warnings)
    assert np.array_equal(again.train.images, chosen.train.images)


def test_only_padded_data_has_another_entry_in_the_cache(tmp_path, wide):
    digests = set()
    for framing, entries in [(CROP, 1), ("auto", 1), (PAD, 2)]:
        digests.add(prepared(wide, tmp_path, framing=framing, image_size=9).digest)
        assert sum(name.startswith("index/") for name in cached_files(tmp_path)) == entries
    assert len(digests) == 1


def test_how_much_of_the_square_padded_images_take_is_reported(tmp_path, wide):
    (warning,) = prepared(wide, tmp_path, framing=PAD).warnings
    assert warning == (
        "resized 16 images from 30 x 12 to 30 x 30; 16 images not square, so the square is filled up with gray: the "
        "median one takes 40 % of it"
    )


def test_padded_photos_have_the_size_of_the_backbone_if_their_longer_side_is_large(tmp_path):
    data = write(tmp_path / "wide", files("cat dog", 4, side=100, width=130))
    assert prepared(data, tmp_path, photo_size=48, framing=PAD).image_size == 48
    assert prepared(data, tmp_path, photo_size=48).image_size == 64


def test_padded_images_of_a_single_color_are_named(tmp_path, wide):
    from PIL import Image

    plain = Image.new("RGB", (30, 12), (9, 9, 200))
    plain.save(wide / "cat/plain.png")
    plain.resize((12, 30)).save(wide / "dog/plain.png")
    plain.putpixel((29, 11), (200, 9, 9))
    plain.save(wide / "cat/spot.png")
    (warning,) = (line for line in prepared(wide, tmp_path, framing=PAD).warnings if "single color" in line)
    assert warning.startswith("2 images of a single color, after transparent pixels became white; check them: ")
    assert "cat/plain.png" in warning
    assert "dog/plain.png" in warning


def test_raw_pixels_are_padded(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 30, 3), dtype=np.uint8)
    padded = decode_stored_image(pixels, 15, 10**6, PAD)[0]
    assert np.array_equal(padded, fit_to_square(Image.fromarray(pixels), 15, PAD))
    assert (padded[0] == 127).all()


@pytest.mark.parametrize("form", ["folder", "zip", "parquet"])
def test_a_sample_is_decoded_again_with_each_framing(tmp_path, wide, form):
    data = wide
    if form == "zip":
        data = Path(shutil.make_archive(str(tmp_path / "wide"), "zip", wide))
    elif form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        paths = sorted(wide.rglob("*.png"))
        data = tmp_path / "wide.parquet"
        columns = {"image": [path.read_bytes() for path in paths], "label": [path.parent.name for path in paths]}
        pq.write_table(pa.table(columns), data)
    dataset = prepared(data, tmp_path, image_size=9)
    rows = np.array([7, 0, 11, 3])
    found, (crops, pads) = decode_sample(request_for(data, tmp_path, image_size=10), dataset, rows, (CROP, PAD))
    assert found.tolist() == rows.tolist()
    at_that_size = [prepared(data, tmp_path, image_size=10, framing=framing).train for framing in (CROP, PAD)]
    assert np.array_equal(crops, at_that_size[0].images[rows])
    assert np.array_equal(pads, at_that_size[1].images[rows])


def test_a_sample_has_no_images_that_changed_since(tmp_path, wide):
    dataset = prepared(wide, tmp_path, image_size=9)
    (wide / dataset.train.names[2]).write_bytes(encoded(999))
    (wide / dataset.train.names[4]).unlink()
    rows = np.array([1, 2, 3, 4])
    found, (crops,) = decode_sample(request_for(wide, tmp_path, image_size=9), dataset, rows, (CROP,))
    assert found.tolist() == [1, 3]
    assert np.array_equal(crops, dataset.train.images[[1, 3]])
    found, (pads,) = decode_sample(request_for(wide, tmp_path, image_size=9), dataset, rows[:0], (PAD,))
    assert (len(found), pads.shape) == (0, (0, 9, 9, 3))
