import json
import re
from pathlib import Path

import pytest

from image_classifier.errors import RegistryError
from image_classifier.package import Package
from image_classifier.platform.download import Reference, download
from tests.mlflow_helpers import record_training, registry_at


@pytest.fixture(scope="module")
def registered(tracking_server, tmp_path_factory):
    """A version that was registered at a real MLflow server: its address and package."""
    folder = tmp_path_factory.mktemp("registered")
    registry = registry_at(folder, tracking_server.address, name="downloaded")
    version = record_training(registry, folder / "package", "fetched")()
    return version, Package.read(folder / "package")


def fetch(uri: str, folder: Path, tracking_uri: str) -> None:
    download(uri, folder, tracking_uri=tracking_uri, timeout=10, credentials={})


def test_a_version_arrives_whole_with_its_number(tracking_server, registered, tmp_path):
    version, package = registered
    fetch(version.uri, tmp_path, tracking_server.address)
    assert Package.read(tmp_path).digest == package.digest
    about = json.loads((tmp_path / "version.json").read_text())
    assert (about["name"], about["version"]) == ("downloaded", version.number)
    report = rf"{tracking_server.address}/#/experiments/\d+/runs/{version.run_id}/artifacts/report\.html"
    assert re.fullmatch(report, about["report"])


def test_the_address_may_name_another_server(tracking_server, registered, tmp_path):
    version, package = registered
    fetch(f"{version.uri}?tracking_uri={tracking_server.address}", tmp_path, "http://127.0.0.1:9")
    assert Package.read(tmp_path).digest == package.digest


def test_a_version_that_is_not_there_is_named(tracking_server, registered, tmp_path):
    with pytest.raises(RegistryError, match=r"models:/downloaded/99 cannot be fetched .* answers 404"):
        fetch("models:/downloaded/99", tmp_path, tracking_server.address)


def test_a_damaged_file_is_refused(tracking_server, registered, tmp_path):
    artifacts = tracking_server.artifacts
    registry = registry_at(tmp_path, tracking_server.address, name="damaged")
    version = record_training(registry, tmp_path / "package", "damaged")()
    (model,) = artifacts.rglob(f"{version.model_id}/**/model.onnx")
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(RegistryError, match=r"model\.onnx is not the file that was registered"):
        fetch(version.uri, tmp_path / "fetched", tracking_server.address)
    assert not (tmp_path / "fetched" / "manifest.json").exists()


@pytest.mark.parametrize("uri", ["models:/a@champion", "models:/a", "s3://a/1", "models:/a/b/1", ""])
def test_only_a_numbered_version_can_be_served(uri):
    with pytest.raises(RegistryError, match="names no version to serve"):
        Reference.parse(uri)


@pytest.mark.parametrize("address", ["", "sqlite:///x.db"])
def test_only_a_server_can_be_asked(address, tmp_path):
    with pytest.raises(RegistryError, match="must be that of an MLflow server"):
        fetch("models:/a/1", tmp_path, address)


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RegistryError, match="does not answer"):
        fetch("models:/a/1", tmp_path, "http://127.0.0.1:9")
