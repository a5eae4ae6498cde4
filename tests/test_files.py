import errno
import os
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import make_url

from image_classifier.files import (
    folder_written_atomically,
    release_pages,
    sha256_of,
    sqlite_uri,
    why_unwritten,
    write_atomically,
)


def test_an_interrupted_write_leaves_the_old_folder_and_no_other(tmp_path):
    target = tmp_path / "package"
    with folder_written_atomically(target) as draft:
        (draft / "a").write_text("old")
    with pytest.raises(RuntimeError), folder_written_atomically(target) as draft:
        (draft / "a").write_text("new")
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["package"]


def test_a_folder_is_replaced_completely(tmp_path):
    target = tmp_path / "package"
    for name in ("a", "b"):
        with folder_written_atomically(target) as draft:
            (draft / name).touch()
    assert os.listdir(target) == ["b"]
    assert os.listdir(tmp_path) == ["package"]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "file"
    write_atomically(target, b"old")
    with pytest.raises(TypeError):
        write_atomically(target, "text is not bytes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_sha256_covers_the_whole_content(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left for the data in /home (No space left on"),
        (OSError("100 requested and 50 written"), "no space left for the data in /home (100 requested and 50"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot write /home (Read-only file system); set home to a"),
        (OSError(errno.EIO, "Input/output error"), "cannot store the data: "),
    ],
)
def test_the_reason_of_a_failed_write_says_what_to_do(error, message):
    assert why_unwritten(error, "the data", "/home", "set home").startswith(message)


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("a b/ü.db", "sqlite+pysqlite:///a b/ü.db"),
        ("100%/a%2Fb?x=1#y.db", "sqlite+pysqlite:///100%25/a%252Fb%3Fx=1#y.db"),
    ],
)
def test_the_uri_of_a_sqlite_file_names_that_file(name, uri):
    assert sqlite_uri(Path(name)) == uri
    assert make_url(uri).database == name


def resident_file_kib() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("RssFile:"))


def test_the_pages_of_a_mapped_file_are_released_and_read_again(tmp_path):
    np.save(tmp_path / "array.npy", np.ones((40, 2**20), np.uint8))
    mapped = np.load(tmp_path / "array.npy", mmap_mode="r")
    view = mapped[4:]
    before = resident_file_kib()
    assert int(view.sum()) == 36 * 2**20
    assert resident_file_kib() > before + 30 * 2**10
    release_pages(view)
    assert resident_file_kib() < before + 2 * 2**10
    assert int(view[7].sum()) == 2**20


def test_values_written_to_a_mapped_file_survive_the_release_of_its_pages(tmp_path):
    written = np.lib.format.open_memmap(tmp_path / "array.npy", mode="w+", dtype=np.float32, shape=(2**20,))
    written[:] = 3
    release_pages(written)
    assert (written == 3).all()
    assert (np.load(tmp_path / "array.npy") == 3).all()


def test_arrays_in_memory_have_no_pages_to_release():
    array = np.ones(5)
    release_pages(array)
    assert array.tolist() == [1] * 5
