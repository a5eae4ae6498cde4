import json
import os
import shutil
from pathlib import Path

import pytest

from image_classifier.errors import PackageError
from image_classifier.files import sha256_of
from image_classifier.package.package import Package, _digest
from tests.conftest import COLORS, SIZE, write_color_package


@pytest.fixture
def copied_package(package_folder, tmp_path) -> Path:
    return Path(shutil.copytree(package_folder, tmp_path / "package"))


def test_a_package_is_read_as_it_was_written(package_folder):
    package = Package.read(package_folder)
    assert package.classes == tuple(COLORS)
    assert package.image_size == SIZE
    assert package.provenance["source_revision"] == "abc123"
    assert [golden.label for golden in package.golden] == list(COLORS)


def test_the_digest_depends_on_the_content_only(package_folder, tmp_path):
    write_color_package(tmp_path / "same")
    write_color_package(tmp_path / "other", run_id="another")
    digest = Package.read(package_folder).digest
    assert Package.read(tmp_path / "same").digest == digest
    assert Package.read(tmp_path / "other").digest != digest


def test_files_that_the_manifest_does_not_list_are_ignored(package_folder, copied_package):
    (copied_package / "MLmodel").write_text("flavors: {}")
    assert Package.read(copied_package).digest == Package.read(package_folder).digest


@pytest.mark.parametrize("name", ["model.onnx", "package.json", "golden.json", "golden/002.png", "reference.json"])
def test_one_flipped_byte_in_any_file_is_detected(copied_package, name):
    content = bytearray((copied_package / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied_package / name).write_bytes(content)
    with pytest.raises(PackageError, match=rf"{name} was changed: its SHA-256 differs"):
        Package.read(copied_package)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden/000.png"])
def test_the_error_names_a_missing_file(copied_package, name):
    (copied_package / name).unlink()
    with pytest.raises(PackageError, match=name):
        Package.read(copied_package)


def test_a_manifest_with_a_file_removed_from_its_list_is_refused(copied_package):
    manifest = json.loads((copied_package / "manifest.json").read_text())
    del manifest["files"]["golden/000.png"]
    (copied_package / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match="does not match its list of files"):
        Package.read(copied_package)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3, "digest": ""}', "\xff"])
def test_an_invalid_manifest_is_a_package_error(copied_package, content):
    (copied_package / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(PackageError):
        Package.read(copied_package)


def test_a_failed_write_leaves_the_existing_package(copied_package):
    before = Package.read(copied_package)
    with pytest.raises(ValueError, match="Out of range float"):
        write_color_package(copied_package, validation_accuracy=float("nan"))  # type: ignore[arg-type]
    assert Package.read(copied_package) == before
    assert os.listdir(copied_package.parent) == [copied_package.name]


def test_nothing_in_a_package_is_pickled(package_folder):
    suffixes = {path.suffix for path in package_folder.rglob("*") if path.is_file()}
    assert suffixes == {".onnx", ".json", ".png"}


def test_the_framing_is_recorded_only_if_it_is_padding(package_folder, tmp_path):
    write_color_package(tmp_path / "padded", framing="pad")
    contents = [json.loads((folder / "package.json").read_text()) for folder in (package_folder, tmp_path / "padded")]
    assert "framing" not in contents[0]
    assert contents[1]["framing"] == "pad"
    assert [content["format"] for content in contents] == [1, 2]  # a program that only crops refuses the second
    assert Package.read(package_folder).framing == "crop"
    assert Package.read(tmp_path / "padded").framing == "pad"


@pytest.mark.parametrize("changes", [{"framing": "stretch"}, {"framing": "crop"}, {"format": 1}, {"format": 3}])
def test_a_package_of_an_unknown_framing_or_format_is_refused(tmp_path, changes):
    write_color_package(tmp_path / "package", framing="pad")
    file, manifest_file = tmp_path / "package/package.json", tmp_path / "package/manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    manifest = json.loads(manifest_file.read_text())
    manifest["files"]["package.json"] = sha256_of(file)
    manifest["digest"] = _digest(manifest["files"])
    manifest_file.write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match="this version reads format 1 with crop and 2 with pad"):
        Package.read(tmp_path / "package")
