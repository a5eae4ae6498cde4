import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from image_classifier.attestation.attachments import Attestations
from image_classifier.attestation.model_signature import verify_folder
from image_classifier.errors import RegistryError, SignatureError
from image_classifier.package.package import Package
from image_classifier.platform.storage_initializer import ModelReference, download
from image_classifier.settings import Settings
from tests.attestation.test_attachments import EVALUATION
from tests.attestation.test_model_signature import rewrite, write_keys
from tests.registry.mlflow_helpers import record_training, registry_at


@pytest.fixture(scope="module")
def registered(tracking_server, tmp_path_factory):
    """A version that was registered at a real MLflow server: its address and package."""
    folder = tmp_path_factory.mktemp("registered")
    registry = registry_at(folder, tracking_server.address, name="downloaded")
    version = record_training(registry, folder / "package", "fetched")()
    return version, Package.read(folder / "package")


def fetch(uri: str, folder: Path, tracking_uri: str, public_key: str = "") -> None:
    download(uri, folder, tracking_uri=tracking_uri, timeout=10, credentials={}, public_key=public_key)


@pytest.fixture(scope="module")
def signed(tracking_server, tmp_path_factory):
    """A version that was signed at its registration, and the file of the public key."""
    folder = tmp_path_factory.mktemp("signed")
    private, public = write_keys(folder)
    registry = registry_at(folder, tracking_server.address, name="signed")
    attestations = Attestations.of(Settings(name="signed", signing_key=str(private)), "somebody")
    version = record_training(
        registry,
        folder / "package",
        "signed",
        tags=attestations.tags,
        accompany=lambda model: attestations.write(model, Package.read(model), EVALUATION),
    )()
    return version, str(public)


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


def test_a_signed_version_arrives_with_its_signature_which_is_verified(tracking_server, signed, tmp_path):
    version, key = signed
    fetch(version.uri, tmp_path / "asked", tracking_server.address, key)
    fetch(version.uri, tmp_path / "unasked", tracking_server.address)
    for folder in (tmp_path / "asked", tmp_path / "unasked"):
        verify_folder(folder, key, name="signed")


def test_a_version_without_a_signature_is_refused_before_anything_is_written(
    tracking_server, registered, signed, tmp_path
):
    with pytest.raises(SignatureError, match=r"models:/downloaded/1 is not signed, but public_key asks"):
        fetch(registered[0].uri, tmp_path / "fetched", tracking_server.address, signed[1])
    assert not (tmp_path / "fetched").exists()


def test_a_change_that_the_manifest_was_made_to_fit_is_refused(tracking_server, tmp_path, signed):
    version, key = signed
    (manifest,) = tracking_server.artifacts.rglob(f"{version.model_id}/**/manifest.json")
    before = {path: path.read_bytes() for path in (manifest, manifest.parent / "reference.json")}
    try:
        rewrite(manifest.parent, "reference.json", b"{}")
        fetch(version.uri, tmp_path / "unasked", tracking_server.address)
        with pytest.raises(
            SignatureError, match=r"models:/signed/1 is not what was signed: reference\.json was"
        ):
            fetch(version.uri, tmp_path / "fetched", tracking_server.address, key)
        assert not (tmp_path / "fetched").exists()
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def test_a_signed_version_under_the_name_of_another_model_is_refused(tracking_server, signed, tmp_path):
    version, key = signed
    client = MlflowClient(tracking_server.address)
    client.create_registered_model("another")
    client.create_model_version(
        "another",
        f"models:/{version.model_id}",
        version.run_id,
        dict(version.tags),
        model_id=version.model_id,
    )
    with pytest.raises(
        SignatureError, match="models:/another/1 was signed as a version of signed, not of another"
    ):
        fetch("models:/another/1", tmp_path, tracking_server.address, key)


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
        ModelReference.parse(uri)


@pytest.mark.parametrize("address", ["", "sqlite:///x.db"])
def test_only_a_server_can_be_asked(address, tmp_path):
    with pytest.raises(RegistryError, match="must be that of an MLflow server"):
        fetch("models:/a/1", tmp_path, address)


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RegistryError, match="does not answer"):
        fetch("models:/a/1", tmp_path, "http://127.0.0.1:9")
