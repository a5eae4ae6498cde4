import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from image_classifier.errors import PackageError
from image_classifier.package.package import Model, Package, likeliest, write_package
from tests.conftest import (
    COLOURS,
    SIZE,
    colour_images,
    colour_model,
    colour_probabilities,
    write_colour_package,
)


@pytest.fixture
def copied_package(package_folder, tmp_path) -> Path:
    return Path(shutil.copytree(package_folder, tmp_path / "package"))


def test_a_package_is_read_as_it_was_written(package_folder):
    package = Package.read(package_folder)
    assert package.classes == tuple(COLOURS)
    assert package.image_size == SIZE
    assert package.provenance["source_revision"] == "abc123"
    assert [golden.label for golden in package.golden] == list(COLOURS)


def test_a_loaded_model_answers_one_image_and_many_alike(package_folder):
    model = Model.load(Package.read(package_folder), threads=1)
    answers = model.probabilities(np.repeat(colour_images(), 200, axis=0))
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, np.repeat(colour_probabilities(), 200, axis=0), atol=1e-5)


def test_the_same_content_has_the_same_digest_and_other_content_another(package_folder, tmp_path):
    write_colour_package(tmp_path / "same")
    write_colour_package(tmp_path / "other", run_id="another")
    digest = Package.read(package_folder).digest
    assert Package.read(tmp_path / "same").digest == digest
    assert Package.read(tmp_path / "other").digest != digest


def test_files_beside_the_package_are_no_part_of_it(copied_package):
    (copied_package / "MLmodel").write_text("flavors: {}")
    assert Package.read(copied_package).digest == Package.read(copied_package).digest


@pytest.mark.parametrize(
    "name", ["model.onnx", "package.json", "golden.json", "golden/002.png", "reference.json"]
)
def test_one_flipped_byte_in_any_file_is_found_and_named(copied_package, name):
    content = bytearray((copied_package / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied_package / name).write_bytes(content)
    with pytest.raises(PackageError, match=rf"{name} is not the file that was packed"):
        Package.read(copied_package)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden/000.png"])
def test_a_missing_file_is_named(copied_package, name):
    (copied_package / name).unlink()
    with pytest.raises(PackageError, match=name):
        Package.read(copied_package)


def test_a_manifest_that_drops_a_file_from_its_list_is_refused(copied_package):
    manifest = json.loads((copied_package / "manifest.json").read_text())
    del manifest["files"]["golden/000.png"]
    (copied_package / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match="does not fit its own list"):
        Package.read(copied_package)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3, "digest": ""}', "\xff"])
def test_a_manifest_that_is_none_is_refused_in_words(copied_package, content):
    (copied_package / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(PackageError):
        Package.read(copied_package)


def test_a_model_that_answers_otherwise_than_recorded_is_never_loaded(tmp_path):
    wrong = colour_probabilities()
    wrong[2] = wrong[1]
    package = write_package(
        tmp_path / "package",
        model=colour_model(),
        classes=list(COLOURS),
        image_size=SIZE,
        provenance={},
        golden=(colour_images(), list(COLOURS), wrong),
        reference={},
    )
    with pytest.raises(PackageError, match="golden image 2 .* gives other probabilities"):
        Model.load(package, threads=1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": b"no onnx"}, "cannot be loaded"),
        ({"model": colour_model(8)}, "takes"),
        ({"classes": ["a", "b"]}, "takes"),
    ],
    ids=["no graph", "another size", "other classes"],
)
def test_a_graph_that_does_not_fit_the_package_is_refused(tmp_path, change, expected):
    content = {
        "model": colour_model(),
        "classes": list(COLOURS),
        "image_size": SIZE,
        "provenance": {},
        "golden": (colour_images(), list(COLOURS), colour_probabilities()),
        "reference": {},
    }
    package = write_package(tmp_path / "package", **{**content, **change})
    with pytest.raises(PackageError, match=expected):
        Model.load(package, threads=1)


def test_a_write_that_fails_leaves_the_package_that_was_there(copied_package):
    before = Package.read(copied_package)
    with pytest.raises(ValueError, match="Out of range float"):
        write_colour_package(copied_package, validation_accuracy=float("nan"))  # type: ignore[arg-type]
    assert Package.read(copied_package) == before
    assert os.listdir(copied_package.parent) == [copied_package.name]


def test_the_likeliest_come_first_and_equals_keep_the_order_of_the_classes():
    probabilities = np.array([0.125, 0.25, 0.25, 0.375], dtype=np.float32)
    assert likeliest(probabilities, "abcd", 3) == [("d", 0.375), ("b", 0.25), ("c", 0.25)]
    assert len(likeliest(probabilities, "abcd", 9)) == 4


def test_a_process_that_has_loaded_the_runtime_may_be_forked():
    code = """
import os
from image_classifier.process import need_no_blas
need_no_blas()
from image_classifier.package.package import load_runtime
load_runtime()
print(len(os.listdir("/proc/self/task")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_nothing_in_a_package_is_pickled(package_folder):
    suffixes = {path.suffix for path in package_folder.rglob("*") if path.is_file()}
    assert suffixes == {".onnx", ".json", ".png"}
