import io
import os
import tarfile
import zipfile

import pytest

from image_classifier.errors import DataError
from tests.datasets.samples import cached_files, encoded, files, prepared, write


def zipped(path, contents, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def tarred(path, contents, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "pack",
    [
        zipped,
        lambda path, contents: zipped(path, contents, zipfile.ZIP_STORED),
        lambda path, contents: tarred(path, contents, "w"),
        tarred,
        lambda path, contents: tarred(path, contents, "w:bz2"),
        lambda path, contents: tarred(path, contents, "w:xz"),
    ],
    ids=["zip", "stored zip", "tar", "tar.gz", "tar.bz2", "tar.xz"],
)
@pytest.mark.parametrize("prefix", ["", "./", "pets-1.0/"])
def test_an_archive_is_read_like_the_folder_that_was_packed(tmp_path, pack, prefix):
    contents = files(prefix="train/") | files(prefix="test/", seed=100) | files(prefix="val/", seed=200, count=2)
    folder = prepared(write(tmp_path / "pets", contents), tmp_path / "a")
    packed = pack(tmp_path / "packed", {prefix + name: content for name, content in contents.items()})
    archive = prepared(packed, tmp_path / "b")
    assert archive.digest == folder.digest
    assert (archive.train.images == folder.train.images).all()
    assert (list(archive.validation_rows), archive.warnings) == ([20, 21, 22, 23], ())


def tar_link(path):
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("cat/1.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return path


def zip_link(path):
    info = zipfile.ZipInfo("cat/1.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return path


def truncated(path, length):
    path.write_bytes(path.read_bytes()[:length])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: zipped(path, files() | {"../../cat/1.png": encoded(1)}), "leads out of the archive"),
        (lambda path: tarred(path, files() | {"../cat/1.png": encoded(1)}), "leads out of the archive"),
        (lambda path: tarred(path, {"/tmp/cat/1.png": encoded(1)}), "leads out of the archive"),
        (lambda path: zipped(path, {"C:\\cat\\1.png": encoded(1)}), "leads out of the archive"),
        (tar_link, "is a link"),
        (zip_link, "is a link"),
        (lambda path: zipped(path, files() | {"cat/bomb.png": bytes(2**26)}), "like a decompression bomb"),
        (lambda path: tarred(path, files() | {"bomb.txt": bytes(2**26)}), "like a decompression bomb"),
        (lambda path: zipped(path, {"cat/a.txt": b"x"}), "has no images"),
        (lambda path: zipped(path, {}), "has no images: it is empty"),
        (lambda path: truncated(tarred(path, files()), 6000), "is damaged"),
        (lambda path: truncated(zipped(path, files()), 6000), "neither a folder nor a zip, tar or parquet"),
    ],
)  # fmt: skip
def test_hostile_and_damaged_archives_are_refused(tmp_path, make, message):
    packed = make(tmp_path / "packed")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        prepared(packed, tmp_path)
    assert "\n" not in str(caught.value)
    assert cached_files(tmp_path) == []
    assert sorted(set(os.listdir(tmp_path)) - {"home"}) == before


def test_the_unpacked_size_is_limited(tmp_path):
    packed = zipped(tmp_path / "packed", files())
    with pytest.raises(DataError, match="more than 5,000 bytes; raise max_data"):
        prepared(packed, tmp_path, max_data=5000)


def test_a_damaged_member_is_refused(tmp_path):
    packed = zipped(tmp_path / "packed", files(), zipfile.ZIP_STORED)
    content = bytearray(packed.read_bytes())
    content[400] ^= 255
    packed.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        prepared(packed, tmp_path)
