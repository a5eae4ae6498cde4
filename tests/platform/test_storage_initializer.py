import json
import re
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from image_classifier.attestation.attachments import Attestations
from image_classifier.attestation.model_signature import verify_folder
from image_classifier.errors import RegistryError, SignatureError
from image_classifier.package.package import Package
from image_classifier.platform import storage_initializer
from image_classifier.platform.storage_initializer import ModelReference, download_version
from tests.attestation.test_attachments import EVALUATION
from tests.attestation.test_model_signature import rewrite, write_keys
from tests.platform.conftest import FakeClock
from tests.registry.mlflow_helpers import record_training, registry_at


@pytest.fixture(scope="module")
def registered(tracking_server, tmp_path_factory):
    """A version that is registered in a real MLflow server, and its package."""
    folder = tmp_path_factory.mktemp("registered")
    registry = registry_at(folder, tracking_server.address, name="downloaded")
    version = record_training(registry, folder / "package", "downloaded")()
    return version, Package.read(folder / "package")


def fetch(uri: str, folder: Path, tracking_uri: str, public_key: str = "") -> None:
    download_version(uri, folder, tracking_uri=tracking_uri, timeout=10, credentials={}, public_key=public_key)


@pytest.fixture(scope="module")
def signed(tracking_server, tmp_path_factory):
    """A version that was signed when it was registered, and the file of the public key."""
    folder = tmp_path_factory.mktemp("signed")
    private, public = write_keys(folder)
    registry = registry_at(folder, tracking_server.address, name="signed")
    attestations = Attestations.create(name="signed", actor="somebody", steps_image="", signing_key=str(private))
    version = record_training(
        registry,
        folder / "package",
        "signed",
        tags=attestations.tags,
        accompany=lambda model: attestations.write(model, Package.read(model), EVALUATION),
    )()
    return version, str(public)


@pytest.mark.slow
def test_a_downloaded_version_is_complete_and_has_its_number(tracking_server, registered, tmp_path):
    version, package = registered
    fetch(version.uri, tmp_path, tracking_server.address)
    assert Package.read(tmp_path).digest == package.digest
    about = json.loads((tmp_path / "version.json").read_text())
    assert (about["name"], about["version"]) == ("downloaded", version.number)
    report = rf"{tracking_server.address}/#/experiments/\d+/runs/{version.run_id}/artifacts/report\.html"
    assert re.fullmatch(report, about["report"])


@pytest.mark.slow
def test_the_uri_can_name_another_server(tracking_server, registered, tmp_path):
    version, package = registered
    fetch(f"{version.uri}?tracking_uri={tracking_server.address}", tmp_path, "http://127.0.0.1:9")
    assert Package.read(tmp_path).digest == package.digest


@pytest.mark.slow
def test_a_missing_version_is_an_error(tracking_server, registered, tmp_path):
    with pytest.raises(RegistryError, match=r"cannot fetch models:/downloaded/99 from .*: it answers 404"):
        fetch("models:/downloaded/99", tmp_path, tracking_server.address)


@pytest.mark.slow
def test_a_signed_version_is_downloaded_with_its_signature(tracking_server, signed, tmp_path):
    version, key = signed
    fetch(version.uri, tmp_path / "verified", tracking_server.address, key)
    fetch(version.uri, tmp_path / "unverified", tracking_server.address)
    for folder in (tmp_path / "verified", tmp_path / "unverified"):
        verify_folder(folder, key, name="signed")


@pytest.mark.slow
def test_a_version_without_a_signature_is_refused_before_anything_is_written(
    tracking_server, registered, signed, tmp_path
):
    with pytest.raises(SignatureError, match=r"models:/downloaded/1 is not signed, but public_key requires"):
        fetch(registered[0].uri, tmp_path / "fetched", tracking_server.address, signed[1])
    assert not (tmp_path / "fetched").exists()


@pytest.mark.slow
def test_a_forged_file_and_manifest_are_detected_by_the_signature(tracking_server, tmp_path, signed):
    version, key = signed
    (manifest,) = tracking_server.artifacts.rglob(f"{version.model_id}/**/manifest.json")
    before = {path: path.read_bytes() for path in (manifest, manifest.parent / "reference.json")}
    try:
        rewrite(manifest.parent, "reference.json", b"{}")
        fetch(version.uri, tmp_path / "unverified", tracking_server.address)
        with pytest.raises(SignatureError, match=r"models:/signed/1 differs from what was signed: reference\.json was"):
            fetch(version.uri, tmp_path / "fetched", tracking_server.address, key)
        assert not (tmp_path / "fetched").exists()
    finally:
        for path, content in before.items():
            path.write_bytes(content)


@pytest.mark.slow
def test_the_signature_of_another_model_is_refused(tracking_server, signed, tmp_path):
    version, key = signed
    client = MlflowClient(tracking_server.address)
    client.create_registered_model("another")
    client.create_model_version(
        "another", f"models:/{version.model_id}", version.run_id, dict(version.tags), model_id=version.model_id
    )
    with pytest.raises(SignatureError, match="models:/another/1 was signed as a version of signed, not of another"):
        fetch("models:/another/1", tmp_path, tracking_server.address, key)


@pytest.mark.slow
def test_a_damaged_file_is_an_error(tracking_server, registered, tmp_path):
    artifacts = tracking_server.artifacts
    registry = registry_at(tmp_path, tracking_server.address, name="damaged")
    version = record_training(registry, tmp_path / "package", "damaged")()
    (model,) = artifacts.rglob(f"{version.model_id}/**/model.onnx")
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(RegistryError, match=r"model\.onnx differs from the registered file"):
        fetch(version.uri, tmp_path / "fetched", tracking_server.address)
    assert not (tmp_path / "fetched" / "manifest.json").exists()


@pytest.mark.parametrize("uri", ["models:/a@champion", "models:/a", "s3://a/1", "models:/a/b/1", ""])
def test_only_a_numbered_version_can_be_downloaded(uri):
    with pytest.raises(RegistryError, match="is not a model version"):
        ModelReference.parse(uri)


@pytest.mark.parametrize("address", ["", "sqlite:///x.db"])
def test_the_tracking_uri_must_be_the_address_of_a_server(address, tmp_path):
    with pytest.raises(RegistryError, match="is not the address of an MLflow server"):
        fetch("models:/a/1", tmp_path, address)


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(storage_initializer, "time", clock)
    return clock


def test_a_server_that_does_not_answer_is_tried_four_times(tmp_path, clock):
    with pytest.raises(RegistryError, match=r"from http://127.0.0.1:9: it does not answer \(.*refused"):
        fetch("models:/a/1", tmp_path, "http://127.0.0.1:9")
    assert clock.pauses == [0.5, 1.0, 2.0]


def test_a_temporary_failure_is_retried_and_another_one_is_not(http_answers, tmp_path, clock):
    http_answers.first_answers = [(503, b""), (429, b"")]
    http_answers.answer = (404, b'{"message": "no such version"}')
    with pytest.raises(RegistryError, match="it answers 404, no such version"):
        fetch("models:/a/1", tmp_path, http_answers.address)
    assert clock.pauses == [0.5, 1.0]


def test_another_server_than_mlflow_is_an_error(http_answers, tmp_path):
    http_answers.answer = (200, b"<html>")
    with pytest.raises(RegistryError, match="is not an MLflow server"):
        fetch("models:/a/1", tmp_path, http_answers.address)


def test_a_connection_that_is_lost_within_the_body_is_retried_and_then_an_error(tmp_path, clock):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_half() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

        threading.Thread(target=answer_half, daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(RegistryError, match="does not answer .*IncompleteRead"):
            fetch("models:/colors/1", tmp_path / "folder", address)
    assert clock.pauses == [0.5, 1.0, 2.0]


def test_credentials_in_the_address_of_the_server_are_sent_and_not_named(http_answers, tmp_path):
    http_answers.answer = (403, b"no")
    with pytest.raises(RegistryError, match="it answers 403") as caught:
        fetch("models:/flowers/7", tmp_path, http_answers.address.replace("://", "://me:secret@"))
    assert http_answers.address in str(caught.value)
    assert "secret" not in str(caught.value)
