import fcntl
import shutil
from pathlib import Path

import numpy as np
import pytest

from image_classifier.datasets.cache import Cache
from tests.datasets.samples import HOME, cached_files, encoded, files, prepared, write


def test_a_cached_data_set_is_not_decoded_again(tmp_path, pets, monkeypatch):
    first = prepared(pets, tmp_path)
    monkeypatch.setattr("image_classifier.datasets.preparation.decode_source", None)
    second = prepared(pets, tmp_path)
    assert (second.digest, second.warnings, second.train.names) == (first.digest, first.warnings, first.train.names)


def test_a_changed_file_is_noticed(tmp_path, pets):
    before = prepared(pets, tmp_path)
    write(pets, {"cat/000.png": encoded(77)})
    assert prepared(pets, tmp_path).digest != before.digest


@pytest.mark.parametrize(
    "name", ["images.npy", "labels.npy", "names.json", "hashes.npy", "originals.npy", "facts.json"]
)
@pytest.mark.parametrize(
    "damage",
    [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])],
    ids=["missing", "truncated"],
)
def test_a_damaged_entry_is_replaced(tmp_path, pets, name, damage):
    before = prepared(pets, tmp_path)
    expected = before.train.images.copy()
    (damaged,) = (tmp_path / HOME).rglob(name)
    damage(damaged)
    after = prepared(pets, tmp_path)
    assert after.digest == before.digest
    assert np.array_equal(after.train.images, expected)


def test_only_the_entry_and_its_two_pointers_are_left(tmp_path, pets):
    prepared(pets, tmp_path)
    paths = cached_files(tmp_path)
    assert sorted(path.split("/")[-1] for path in paths if path.startswith("data/")) == [
        "facts.json", "hashes.npy", "images.npy", "labels.npy", "names.json", "originals.npy",
    ]  # fmt: skip
    assert len(paths) == 8


def test_the_digest_of_data_with_a_test_part_is_that_of_version_0_1(tmp_path):
    """The registry knows the data of its packages and evaluations by it."""
    contents = files(prefix="train/") | files(prefix="test/", seed=100)
    digest = prepared(write(tmp_path / "pets", contents), tmp_path).digest
    assert digest == "589ceea438855aa775baab2649000f9db8049d81846602184494b05c7d39b7ab"


def test_a_draft_that_another_process_removes_before_it_is_locked_is_created_again(tmp_path, monkeypatch):
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


def test_the_draft_of_a_killed_process_is_removed(tmp_path, pets):
    abandoned = tmp_path / HOME / "cache" / ".draft-abandoned"
    abandoned.mkdir(parents=True)
    (abandoned / "lock").touch()
    (abandoned / "pixels").write_bytes(bytes(100))
    prepared(pets, tmp_path)
    assert not abandoned.exists()
