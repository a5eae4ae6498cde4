import fcntl
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from image_classifier.datasets.cache import Cache
from image_classifier.datasets.dataset import ORIGINAL_FORMATS
from image_classifier.datasets.decoding import IN_PROCESS
from image_classifier.errors import DataError
from image_classifier.images.decoder import decode
from tests.datasets.samples import HOME, encoded, files, left_in_cache, prepared, write


@pytest.fixture
def pets(tmp_path):
    return write(tmp_path / "pets", files())


def test_images_are_what_the_decoder_gives_and_cannot_be_changed(tmp_path, pets):
    dataset = prepared(pets, tmp_path, image_size=9)
    for part in (dataset.train, dataset.test):
        assert isinstance(part.images, np.memmap)
        for image, name in zip(part.images, part.names, strict=True):
            assert np.array_equal(image, decode((pets / name).read_bytes(), 9, 10**6))
    with pytest.raises(ValueError, match="read-only"):
        dataset.train.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        dataset.train.labels[0] = 0


def test_the_digest_is_of_content_and_not_of_place_or_name(tmp_path, pets):
    moved = write(
        tmp_path / "elsewhere",
        {name.replace("/0", "/z9"): content for name, content in reversed(files().items())},
    )
    first, second = prepared(pets, tmp_path), prepared(moved, tmp_path / "other")
    assert first.digest == second.digest
    assert np.array_equal(first.train.images, second.train.images)
    assert np.array_equal(first.test.labels, second.test.labels)


@pytest.mark.parametrize(
    "change",
    [
        lambda contents: contents | {"cat/000.png": encoded(99)},
        lambda contents: contents | {"cat/new.png": encoded(99)},
        lambda contents: {name.replace("cat", "cow"): content for name, content in contents.items()},
        lambda contents: {name: contents[name] for name in list(contents)[1:]},
    ],
)
def test_the_digest_changes_with_the_content(tmp_path, pets, change):
    changed = write(tmp_path / "changed", change(files()))
    assert prepared(pets, tmp_path).digest != prepared(changed, tmp_path).digest


def test_the_second_time_nothing_is_decoded(tmp_path, pets, monkeypatch):
    first = prepared(pets, tmp_path)
    monkeypatch.setattr("image_classifier.datasets.preparation.decode_source", None)
    second = prepared(pets, tmp_path)
    assert (second.digest, second.warnings, second.train.names) == (
        first.digest,
        first.warnings,
        first.train.names,
    )


def test_changed_files_are_noticed(tmp_path, pets):
    before = prepared(pets, tmp_path)
    write(pets, {"cat/000.png": encoded(77)})
    assert prepared(pets, tmp_path).digest != before.digest


def test_a_folder_that_has_grown_has_another_digest_and_one_that_is_as_before_its_old_one(tmp_path, pets):
    before = prepared(pets, tmp_path)
    new = {f"cat/new{number}.png": encoded(100 + number) for number in range(8)}
    write(pets, new)
    grown = prepared(pets, tmp_path)
    assert grown.digest != before.digest
    assert (
        len(grown.train.labels) + len(grown.test.labels)
        == len(before.train.labels) + len(before.test.labels) + 8
    )
    for name in new:
        (pets / name).unlink()
    assert prepared(pets, tmp_path).digest == before.digest


def test_images_that_were_trained_on_stay_out_of_the_test_part_when_a_folder_grows(tmp_path):
    folder = write(tmp_path / "many", files(count=60))
    before = prepared(folder, tmp_path)
    new = files(count=60, start=5000)
    write(folder, {name.replace("/", "/new"): content for name, content in new.items()})
    grown = prepared(folder, tmp_path)
    moved = set(before.train.names) & set(grown.test.names)
    # Only those next to the boundary of the ranks change sides.
    assert len(moved) <= 0.1 * len(before.train.names)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "names.json", "originals.npy", "facts.json"])
@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])]
)
def test_a_damaged_entry_is_made_again(tmp_path, pets, name, damage):
    before = prepared(pets, tmp_path)
    expected = before.train.images.copy()
    (damaged,) = (tmp_path / HOME).rglob(name)
    damage(damaged)
    after = prepared(pets, tmp_path)
    assert after.digest == before.digest
    assert np.array_equal(after.train.images, expected)


def test_nothing_but_the_entry_is_left(tmp_path, pets):
    prepared(pets, tmp_path)
    left = left_in_cache(tmp_path)
    assert sorted(path.split("/")[-1] for path in left if path.startswith("data/")) == [
        "facts.json", "images.npy", "labels.npy", "names.json", "originals.npy",
    ]  # fmt: skip
    assert len(left) == 6


def test_what_each_image_was_stored_as_is_known_and_an_entry_of_before_that_is_still_read(tmp_path):
    content = files("cat dog", 5, side=20) | {"cat/wide.jpg": encoded(99, 30, "JPEG")}
    dataset = prepared(write(tmp_path / "pets", content), tmp_path, image_size=8)
    originals = np.concatenate([dataset.train.originals, dataset.test.originals])
    names = [*dataset.train.names, *dataset.test.names]
    for name, (width, height, format) in zip(names, originals, strict=True):
        jpeg = name.endswith(".jpg")
        assert (width, height) == ((30, 30) if jpeg else (20, 20))
        assert ORIGINAL_FORMATS[format] == ("JPEG" if jpeg else "PNG")
    (facts,) = (tmp_path / HOME).rglob("facts.json")
    stored = json.loads(facts.read_text())
    del stored["sizes"]["originals.npy"]
    facts.write_text(json.dumps(stored))
    (facts.parent / "originals.npy").unlink()
    assert prepared(tmp_path / "pets", tmp_path, image_size=8).test.originals is None


def test_many_images_are_decoded_in_worker_processes_with_the_same_outcome(tmp_path, monkeypatch):
    content = {
        f"{'cat' if number % 2 else 'dog'}/{number}.png": encoded(number, side=64) for number in range(400)
    }
    content["cat/broken.png"] = b"broken"
    folder = write(tmp_path / "pets", content)
    assert sum(map(len, content.values())) > IN_PROCESS
    pooled = prepared(folder, tmp_path)
    assert pooled.warnings[0].startswith("1 image left out, cannot be read: cat/broken.png")
    monkeypatch.setattr("image_classifier.datasets.decoding.IN_PROCESS", 10**9)
    alone = prepared(folder, tmp_path / "alone")
    assert (pooled.digest, pooled.warnings) == (alone.digest, alone.warnings)
    assert np.array_equal(pooled.train.images, alone.train.images)


PREPARE = """
import sys
from pathlib import Path
from image_classifier.datasets import prepare
from image_classifier.settings import Settings
if __name__ == "__main__":
    print(prepare(Settings(data=sys.argv[1], home=Path(sys.argv[2]))).digest)
"""


def test_two_processes_that_prepare_the_same_both_succeed(tmp_path, pets):
    command = [sys.executable, "-c", PREPARE, str(pets), str(tmp_path / HOME)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {run.communicate(timeout=60)[0] for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert len(answers) == 1
    assert len(left_in_cache(tmp_path)) == 6


def test_a_home_that_is_a_file_is_one_line(tmp_path, pets):
    (tmp_path / HOME).write_text("")
    with pytest.raises(DataError, match=r"home.* cannot be used \(.*\); set home"):
        prepared(pets, tmp_path)


LIMITED = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
{PREPARE}"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, pets):
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(pets), str(tmp_path / HOME)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "DataError: there is no room for the prepared data in" in run.stderr.splitlines()[-1]
    assert left_in_cache(tmp_path) == []


def test_a_draft_that_another_process_removes_just_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    flock, removed = fcntl.flock, []

    def lock_late(file, operation):
        if not removed:
            removed.append(Path(file.name).parent)
            shutil.rmtree(removed[0])
        flock(file, operation)

    monkeypatch.setattr("image_classifier.datasets.cache.fcntl.flock", lock_late)
    with Cache(tmp_path).draft() as draft:
        assert draft.is_dir()
        assert draft != removed[0]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path, pets):
    abandoned = tmp_path / HOME / "cache" / ".draft-abandoned"
    abandoned.mkdir(parents=True)
    (abandoned / "lock").touch()
    (abandoned / "pixels").write_bytes(bytes(100))
    prepared(pets, tmp_path)
    assert not abandoned.exists()


def test_the_binary_cifar_archive_is_read(tmp_path):
    records = np.random.default_rng(0).integers(0, 256, (60, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(60) % 10
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, rows in (("data_batch_1.bin", records[:40]), ("test_batch.bin", records[40:])):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = rows.nbytes
            archive.addfile(info, io.BytesIO(rows.tobytes()))
    dataset = prepared(tmp_path / "cifar-10-binary.tar.gz", tmp_path)
    assert dataset.classes[:2] == ("airplane", "automobile")
    assert (dataset.train.images.shape, dataset.test.images.shape) == ((40, 32, 32, 3), (20, 32, 32, 3))
    first = int(dataset.train.names[0].split()[-1])
    assert np.array_equal(dataset.train.images[0], records[first, 1:].reshape(3, 32, 32).transpose(1, 2, 0))


def test_grey_colour_files_are_grey_and_not_mirrored(tmp_path):
    from PIL import Image

    for number in range(12):
        path = tmp_path / "glyphs" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (number,) * 3).save(path)
    dataset = prepared(tmp_path / "glyphs", tmp_path)
    assert (dataset.grey, dataset.mirror) == (True, False)


MEASURE = f"""
import resource
{PREPARE}
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        print(resource.getrusage(who).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_data(tmp_path):
    """45 MiB of images cost no process, parent or worker, more than a small part of that."""
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
