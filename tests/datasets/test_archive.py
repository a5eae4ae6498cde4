import io
import os
import re
import struct
import tarfile
import zipfile
import zlib

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


def renamed_in_zip(path, contents, encoding, *, system):
    """A zip file whose names are not flagged as UTF-8, as programs of this system write them."""
    placeholders = {
        name: "".join(chr(ord("A") + int(digit)) for digit in f"{place:04}").ljust(len(name.encode(encoding)), "_")
        for place, name in enumerate(contents)
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(placeholders[name])
            info.create_system = system
            archive.writestr(info, content)
    data = path.read_bytes()
    for name, placeholder in placeholders.items():
        data = data.replace(placeholder.encode(), name.encode(encoding))
    path.write_bytes(data)
    return path


WINDOWS, UNIX = 0, 3


@pytest.mark.parametrize(
    ("encoding", "system", "name"),
    [
        ("utf-8", UNIX, "café"),
        ("utf-8", WINDOWS, "café"),
        ("cp1252", UNIX, "café"),
        ("cp437", UNIX, "café"),
        ("cp437", WINDOWS, "café"),
        ("cp850", WINDOWS, "São"),
        ("cp437", WINDOWS, "ñandú"),
    ],
)
def test_zip_names_are_read_in_their_probable_encoding(tmp_path, encoding, system, name):
    packed = renamed_in_zip(tmp_path / "pets.zip", files(f"{name} dog"), encoding, system=system)
    assert prepared(packed, tmp_path).classes == tuple(sorted((name, "dog")))


def test_the_unicode_name_in_a_zip_extra_field_comes_first(tmp_path):
    packed = tmp_path / "pets.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files("cat dog").items():
            info = zipfile.ZipInfo(name.replace("cat", "c\x7ft"))
            stored, unicode = info.filename.encode(), name.replace("cat", "猫").encode()
            field = struct.pack("<BI", 1, zlib.crc32(stored)) + unicode
            info.extra = struct.pack("<HH", 0x7075, len(field)) + field
            archive.writestr(info, content)
    # Only names that are not ASCII need it.
    packed.write_bytes(renumbered(packed.read_bytes()))
    assert prepared(packed, tmp_path).classes == ("dog", "猫")


def renumbered(data):
    """Replace the byte 0x7F of the names by one of another code page, and correct the checksums of the names."""
    for number in range(10):
        old, new = (f"c{character}t/{number:03}.png".encode("latin-1") for character in "\x7f\x83")
        data = data.replace(old, new)
        data = data.replace(struct.pack("<I", zlib.crc32(old)), struct.pack("<I", zlib.crc32(new)))
    return data


@pytest.mark.parametrize("prefix", ["", "pets\\"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_backslashes_of_windows_are_folders(tmp_path, pack, prefix):
    contents = files(prefix="train/") | files(prefix="test/", seed=100)
    names = {prefix + name.replace("/", "\\"): content for name, content in contents.items()}
    dataset = prepared(pack(tmp_path / "packed", names), tmp_path)
    assert (dataset.classes, len(dataset.test.labels)) == (("cat", "dog"), 20)
    assert dataset.warnings == ()


def test_a_backslash_in_a_name_of_another_system_is_kept(tmp_path):
    packed = zipped(tmp_path / "packed", files() | files("AC\\DC", seed=50))
    assert prepared(packed, tmp_path).classes == ("AC\\DC", "cat", "dog")


def test_a_colon_in_a_class_name_is_no_drive(tmp_path):
    assert prepared(zipped(tmp_path / "packed", files("kind:a kind:b")), tmp_path).classes == ("kind:a", "kind:b")


def linked_tar(path, links, kind=tarfile.SYMTYPE):
    tarred(path, files("owl dog"), "w")
    with tarfile.open(path, "a") as archive:
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return path


def linked_zip(path, links):
    zipped(path, files("owl dog"))
    with zipfile.ZipFile(path, "a") as archive:
        for name, target in links.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, target)
    return path


@pytest.mark.parametrize("pack", [linked_tar, linked_zip])
def test_a_symbolic_link_in_an_archive_is_the_file_it_points_to(tmp_path, pack):
    links = {f"eel/{number}.png": f"../owl/{number:03}.png" for number in range(5)}
    links["eel/5.png"] = "4.png"
    dataset = prepared(pack(tmp_path / "packed", links), tmp_path)
    assert dataset.classes == ("dog", "eel", "owl")
    assert sorted(name for name in [*dataset.train.names, *dataset.test.names] if "eel" in name) == sorted(links)


def test_a_hard_link_in_a_tar_archive_is_the_file_it_points_to(tmp_path):
    links = {f"eel/{number}.png": f"./owl/{number:03}.png" for number in range(5)}
    assert prepared(linked_tar(tmp_path / "packed", links, tarfile.LNKTYPE), tmp_path).classes == ("dog", "eel", "owl")


@pytest.mark.parametrize("pack", [linked_tar, linked_zip])
def test_a_link_that_cannot_be_followed_is_skipped_and_named(tmp_path, pack):
    (tmp_path / "secret.png").write_bytes(encoded(99))
    links = {
        "dog/a.png": str(tmp_path / "secret.png"),
        "dog/b.png": "../../secret.png",
        "dog/c.png": "c.png",
        "dog/d.png": "../notes",
        "all": "dog",
    }
    packed = pack(tmp_path / "packed", links)
    dataset = prepared(packed, tmp_path)
    assert dataset.warnings == (
        "skipped 1 non-image file: all (a link to the folder dog)",
        "skipped 4 images that cannot be read: dog/a.png (it is a link to a file that is not in the archive), "
        "dog/b.png (it is a link to a file that is not in the archive), dog/c.png (it is a link in a circle), "
        "dog/d.png (it is a link to a file that is not in the archive)",
    )
    assert len(dataset.train.labels) + len(dataset.test.labels) == 20


def test_links_count_as_much_as_the_files_they_point_to(tmp_path):
    packed = linked_tar(tmp_path / "packed", {f"eel/{number}.png": "../owl/000.png" for number in range(100)})
    prepared(packed, tmp_path / "a", max_data=10**6)
    with pytest.raises(DataError, match="unpacks to more than 90,000 bytes"):
        prepared(packed, tmp_path / "b", max_data=90_000)


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


def encrypted_zip(path):
    zipped(path, files())
    # The flag in the central directory; no password is known, so the content does not matter.
    path.write_bytes(
        re.sub(rb"(PK\x01\x02.{4}).", lambda match: match[1] + b"\x01", path.read_bytes(), flags=re.DOTALL)
    )
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
        (encrypted_zip, "is encrypted; unpack it, and use the folder"),
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
