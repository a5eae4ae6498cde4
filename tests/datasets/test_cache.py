import fcntl
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from image_classifier.datasets.cache import Cache
from tests.datasets.samples import HOME, cached_files, encoded, prepared, write


def test_a_cached_data_set_is_not_decoded_again(tmp_path, pets, monkeypatch):
    first = prepared(pets, tmp_path)
    monkeypatch.setattr("image_classifier.datasets.preparation.decode_source", None)
    second = prepared(pets, tmp_path)
    assert (second.digest, second.warnings, second.train.names) == (first.digest, first.warnings, first.train.names)


def test_a_changed_file_is_noticed(tmp_path, pets):
    before = prepared(pets, tmp_path)
    write(pets, {"cat/000.png": encoded(77)})
    assert prepared(pets, tmp_path).digest != before.digest


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "names.json", "originals.npy", "facts.json"])
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


def test_only_the_entry_and_its_pointer_are_left(tmp_path, pets):
    prepared(pets, tmp_path)
    paths = cached_files(tmp_path)
    assert sorted(path.split("/")[-1] for path in paths if path.startswith("data/")) == [
        "facts.json", "images.npy", "labels.npy", "names.json", "originals.npy",
    ]  # fmt: skip
    assert len(paths) == 6


def test_keys_and_metadata_are_those_of_version_0_1(tmp_path):
    """Otherwise the entries of existing installations would not be found."""
    prepared("digits", tmp_path)
    cache = tmp_path / HOME / "cache"
    assert [path.name for path in (cache / "index").iterdir()] == ["ce595f93e662b2634008376256b1a8f2.json"]
    metadata = json.loads((cache / "data" / "8bea13ae16d5584f3fb1d94175ff53e9" / "facts.json").read_text())
    assert metadata["digest"] == "0c7a5a91a6422fcc38da649446392e19e23f8487ce80ebca9e99940b858907db"
    assert list(metadata) == [*("sizes", "digest", "classes", "image_size", "grey", "mirror", "train", "warnings")]


def test_an_entry_without_the_stored_sizes_is_read(tmp_path, pets):
    """The first entries of version 0.1 have no originals.npy."""
    before = prepared(pets, tmp_path)
    (metadata,) = (tmp_path / HOME).rglob("facts.json")
    stored = json.loads(metadata.read_text())
    del stored["sizes"]["originals.npy"]
    metadata.write_text(json.dumps(stored))
    (metadata.parent / "originals.npy").unlink()
    after = prepared(pets, tmp_path)
    assert (after.digest, after.test.originals) == (before.digest, None)


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
