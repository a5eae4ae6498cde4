"""Versions in a SQLite store: registration, references, download."""

import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

import image_classifier
from image_classifier.errors import PackageError, RegistryError
from image_classifier.package.package import Package
from tests.conftest import color_images, color_probabilities
from tests.registry.mlflow_helpers import model_folder, record_training, register_packages, registry_at

pytestmark = pytest.mark.slow


@pytest.fixture
def client(home):
    return MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def test_a_new_version_is_numbered_tagged_and_the_candidate(registry, tmp_path):
    first, second = register_packages(registry, tmp_path, "one", "two")
    assert (first.number, second.number) == (1, 2)
    assert second.uri == f"models:/{registry.name}/2"
    assert registry.versions.get("1").aliases == ()
    assert registry.versions.get("candidate") == second
    assert registry.versions.newest() == second
    assert second.tags["fingerprint"] == "two"
    assert timedelta(0) < datetime.now(UTC) - second.created < timedelta(minutes=10)


def test_a_version_loads_with_mlflow_and_predicts_as_its_package(registry, home, tmp_path, monkeypatch):
    import mlflow

    (version,) = register_packages(registry, tmp_path, "one")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    loaded = mlflow.pyfunc.load_model(version.uri)
    probabilities = loaded.predict({"image": color_images()})["probabilities"]
    np.testing.assert_allclose(probabilities, color_probabilities(), atol=1e-5)
    assert loaded.input_example is not None
    assert str(loaded.metadata.signature.inputs) == "['image': Tensor('uint8', (-1, 16, 16, 3))]"
    assert str(loaded.metadata.signature.outputs) == "['probabilities': Tensor('float32', (-1, 4))]"
    assert mlflow.onnx.load_model(version.uri).graph.input[0].name == "image"
    copy = mlflow.artifacts.download_artifacts(version.uri, dst_path=str(tmp_path / "copy"))
    assert Package.read(Path(copy)).digest == Package.read(tmp_path / "one").digest


def test_a_download_is_the_package_with_its_version_file(registry, tmp_path):
    (version,) = register_packages(registry, tmp_path, "one")
    target = tmp_path / "models/1"
    assert registry.versions.download(version, target) == target
    assert Package.read(target).digest == Package.read(tmp_path / "one").digest
    about = {"name": registry.name, "version": 1, "uri": f"models:/{registry.name}/1"}
    assert json.loads((target / "version.json").read_text()) == about
    assert os.listdir(target.parent) == ["1"]


def test_a_registered_download_holds_no_other_files(registry, tmp_path):
    (version,) = register_packages(registry, tmp_path, "one")
    registry.versions.download(version, tmp_path / "fetched")
    again = registry.versions.register(version.run_id, tmp_path / "fetched", tags={"fingerprint": "other"})
    assert again.number == 2
    registry.versions.download(again, tmp_path / "fetched again")
    assert sorted(os.listdir(tmp_path / "fetched again")) == sorted(os.listdir(tmp_path / "fetched"))


def test_a_fingerprint_is_registered_once(registry, tmp_path):
    register_one = record_training(registry, tmp_path / "one", "one")
    first = register_one()
    register_packages(registry, tmp_path, "two")
    assert register_one().number == first.number
    # Another run of the same code, data and parameters.
    assert register_packages(registry, tmp_path, "one")[0].number == first.number
    assert registry.versions.get("candidate").number == first.number
    assert registry.versions.find("one").number == first.number
    assert registry.versions.find("three") is None


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_version_that_lacks_files_is_not_found_and_is_registered_again(registry, tmp_path, client, damage):
    register_one = record_training(registry, tmp_path / "one", "one")
    version = register_one()
    file = model_folder(client, version.model_id) / "golden/002.png"
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:-1])
    assert registry.versions.find("one") is None
    with pytest.raises(RegistryError, match="lacks files in the registry and cannot be promoted"):
        registry.history.promote(version, actor="me", reason="good")
    assert registry.versions.champion() is None
    assert register_one().number == 2
    assert registry.versions.find("one").number == 2


def test_a_download_with_a_changed_file_fails_and_leaves_the_folder_as_it_was(registry, tmp_path, client):
    (version,) = register_packages(registry, tmp_path, "one")
    registry.versions.download(version, tmp_path / "fetched")
    file = model_folder(client, version.model_id) / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    before = Package.read(tmp_path / "fetched")
    with pytest.raises(RegistryError, match=r"are damaged \(.*model\.onnx"):
        registry.versions.download(version, tmp_path / "fetched")
    assert Package.read(tmp_path / "fetched") == before
    assert not list(tmp_path.glob(".fetched*"))


def test_a_damaged_package_is_not_registered(registry, tmp_path):
    register_one = record_training(registry, tmp_path / "one", "one")
    (tmp_path / "one/golden/000.png").write_bytes(b"")
    with pytest.raises(PackageError):
        register_one()
    with pytest.raises(RegistryError, match="has no candidate in the registry"):
        registry.versions.get("candidate")


def test_a_version_is_found_by_number_alias_or_uri(registry, tmp_path):
    (version,) = register_packages(registry, tmp_path, "one")
    registry.history.promote(version, actor="me", reason="good")
    for reference in ("1", "candidate", "models:/NAME/1", "models:/NAME@candidate", "models:/NAME@champion"):
        assert registry.versions.get(reference.replace("NAME", registry.name)).number == 1


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("9", "has no version 9"),
        ("champion", "has no champion in the registry at sqlite"),
        ("models:/nobody/1", "nobody has no version 1"),
        ("models:/nobody@champion", "nobody has no champion"),
        ("models:/m-0123", "'models:/m-0123' is not a version; use"),
        ("it's", "is not a version; use"),
        ("", "'' is not a version; use"),
    ],
)
def test_a_reference_without_a_version_is_an_error(registry, reference, expected):
    with pytest.raises(RegistryError, match=expected):
        registry.versions.get(reference)


@pytest.mark.parametrize("name", ["a/b", "a:b", "it's", "", " "])
def test_a_name_that_mlflow_or_a_uri_cannot_hold_is_an_error(home, name):
    with pytest.raises(RegistryError, match="cannot name a registered model"):
        registry_at(home, name=name)


def test_long_tags_are_cut_and_events_are_not_among_the_tags(registry, tmp_path):
    (version,) = register_packages(registry, tmp_path, "one")
    registry.versions.set_tags(version, {"note": "short", "long": "x" * 9000})
    registry.history.promote(version, actor="me", reason="good")
    tags = registry.versions.get("1").tags
    assert tags["note"] == "short"
    assert len(tags["long"]) == 5000
    assert not any(name.startswith("event") for name in tags)


def test_deprecated_stages_of_mlflow_are_not_used():
    deprecated = re.compile(r"transition_model_version_stage|get_latest_versions|current_stage|archive_existing")
    sources = Path(image_classifier.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if deprecated.search(path.read_text())] == []
