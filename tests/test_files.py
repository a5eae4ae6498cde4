import os

import pytest

from image_classifier.files import folder_written_atomically, sha256_of, write_atomically


def test_a_failed_write_leaves_the_old_folder_and_nothing_beside_it(tmp_path):
    target = tmp_path / "package"
    with folder_written_atomically(target) as draft:
        (draft / "a").write_text("old")
    with pytest.raises(RuntimeError), folder_written_atomically(target) as draft:
        (draft / "a").write_text("new")
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["package"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "package"
    for name in ("a", "b"):
        with folder_written_atomically(target) as draft:
            (draft / name).touch()
    assert os.listdir(target) == ["b"]
    assert os.listdir(tmp_path) == ["package"]


def test_a_failed_file_write_leaves_the_old_content(tmp_path):
    target = tmp_path / "file"
    write_atomically(target, b"old")
    with pytest.raises(TypeError):
        write_atomically(target, "text is not bytes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_sha256_is_of_the_whole_content(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
