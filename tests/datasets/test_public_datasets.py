import hashlib

import pytest

from image_classifier.datasets import public_datasets
from image_classifier.datasets.public_datasets import PublicDataset, PublicFile, fetch_public_dataset
from image_classifier.errors import DataError

CONTENT = b"pets"


def pets(*mirrors):
    file = PublicFile("pets.zip", f"sha256:{hashlib.sha256(CONTENT).hexdigest()}", mirrors)
    return PublicDataset((file,), ("kitten", "puppy"), mirror=False)


@pytest.fixture
def attempts(monkeypatch):
    """URL and timeout of each download, none of which needs a network; those that hang advance the clock."""
    attempts = []
    clock = 0.0

    def fetch(url, folder, timeout, max_data):
        nonlocal clock
        attempts.append((url, timeout))
        if url == "missing":
            raise DataError("missing cannot be fetched: the server has no such file (404)")
        if url == "hangs":
            clock += timeout
            raise DataError(f"hangs was not fetched within {timeout:g} s")
        folder.mkdir(exist_ok=True)
        (folder / "download").write_bytes(CONTENT if url == "right" else b"wrong")
        return folder / "download"

    monkeypatch.setattr(public_datasets, "fetch", fetch)
    monkeypatch.setattr(public_datasets, "monotonic", lambda: clock)
    return attempts


def test_each_mirror_gets_an_equal_share_of_the_remaining_time(tmp_path, attempts):
    dataset = pets("missing", "hangs", "wrong", "right")
    folder = fetch_public_dataset("pets", dataset, tmp_path / "fetched", timeout=12, max_data=10**6)
    assert attempts == [("missing", 3), ("hangs", 4), ("wrong", 4), ("right", 8)]
    assert (folder / "pets.zip").read_bytes() == CONTENT


def test_a_verified_file_is_not_fetched_again(tmp_path, attempts):
    for _ in range(2):
        fetch_public_dataset("pets", pets("right"), tmp_path / "fetched", timeout=12, max_data=10**6)
    assert len(attempts) == 1


def test_the_error_names_all_mirrors_and_the_alternatives(tmp_path, attempts):
    dataset = pets("missing", "hangs", "wrong")
    with pytest.raises(DataError) as caught:
        fetch_public_dataset("pets", dataset, tmp_path / "fetched", timeout=3, max_data=10**6)
    for part in (
        "pets cannot be fetched: missing cannot",
        "hangs was not fetched within 1.5 s",
        "the checksum of wrong is not sha256:",
        "embedded digits",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
