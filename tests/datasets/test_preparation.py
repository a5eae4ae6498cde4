import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import image_classifier
from image_classifier.datasets.dataset import ORIGINAL_FORMATS
from image_classifier.errors import DataError
from image_classifier.images import decode
from tests.datasets.samples import HOME, cached_files, encoded, files, prepared, write


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
    assert len(cached_files(tmp_path)) == 7


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
