"""The registry behind an `mlflow server` that also serves the artifacts."""

import signal
import urllib.parse

import pytest

from image_classifier.errors import RegistryError
from image_classifier.package.package import Package
from image_classifier.settings import Seconds, Settings
from image_classifier.steps.model_access import open_registry
from tests.registry.mlflow_helpers import record_training, registry_at

pytestmark = pytest.mark.slow

LONG_TIMEOUT = 120
"""Seconds, as the server may be slow on a machine that runs other tests."""


def test_a_version_is_registered_promoted_and_downloaded_over_http(tracking_server, tmp_path):
    registry = registry_at(tmp_path, tracking_server.address, timeout=LONG_TIMEOUT)
    registry.check()
    version = record_training(registry, tmp_path / "package", "one")()
    # The server sends version numbers as text.
    assert version.number == 1
    assert type(version.number) is int
    assert registry.versions.find("one") == version == registry.versions.get("candidate")
    address = registry.versions.address_of(version)
    assert address == f"{version.uri}?tracking_uri={tracking_server.address}"
    assert registry.versions.get(address) == version
    registry.history.promote(version, actor="ada", reason="the first")
    assert registry.versions.champion().number == 1
    assert [(event.action, event.version, event.reason) for event in registry.history.events()] == [
        ("promoted", 1, "the first")
    ]
    with registry.runs.resume(version.run_id) as run:
        run.log_text("{}", "evaluation/evaluation.json")
    assert registry.runs.read_artifact(version.run_id, "evaluation/evaluation.json") == b"{}"
    assert registry.runs.read_artifact(version.run_id, "no/such.json") is None
    downloaded = Package.read(registry.versions.download(version, tmp_path / "fetched"))
    assert downloaded.digest == Package.read(tmp_path / "package").digest
    # Everything is on the server.
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "artifacts").exists()


def test_a_reference_without_a_version_is_an_error_over_http(tracking_server, tmp_path):
    registry = registry_at(tmp_path, tracking_server.address, name="nothing", timeout=LONG_TIMEOUT)
    assert registry.versions.champion() is None
    assert registry.history.events() == []
    assert registry.versions.find("one") is None
    with pytest.raises(RegistryError, match="nothing has no version 7"):
        registry.versions.get("7")
    with pytest.raises(RegistryError, match="has no run"):
        registry.runs.resume("0" * 32)


def test_a_server_that_rejects_the_host_name_is_explained(tracking_server, tmp_path):
    port = urllib.parse.urlsplit(tracking_server.address).port
    with pytest.raises(RegistryError, match=rf"rejects the host name 127\.1:{port}: start it with --allowed-hosts"):
        registry_at(tmp_path, f"http://127.1:{port}", timeout=LONG_TIMEOUT).check()


def test_a_server_that_hangs_times_out_and_a_repeat_makes_one_version(tracking_server, tmp_path):
    registry = registry_at(tmp_path, tracking_server.address, name="hanging", timeout=LONG_TIMEOUT)
    register_one = record_training(registry, tmp_path / "package", "one")
    impatient = registry_at(tmp_path, tracking_server.address, name="hanging", timeout=1)
    tracking_server.send(signal.SIGSTOP)
    try:
        for step in (lambda: impatient.versions.find("one"), impatient.check):
            with pytest.raises(RegistryError, match="did not answer in time") as caught:
                step()
            assert "\n" not in str(caught.value)
    finally:
        tracking_server.send(signal.SIGCONT)
    assert register_one().number == register_one().number == 1


def test_a_killed_server_fails_each_step(tracking_server, tmp_path):
    registry = registry_at(tmp_path, tracking_server.address, name="killed", timeout=LONG_TIMEOUT)
    register_one = record_training(registry, tmp_path / "package", "one")
    run = registry.runs.resume(Package.read(tmp_path / "package").provenance["run_id"])
    tracking_server.kill()
    with pytest.raises(RegistryError, match="cannot read the versions of killed: .* does not answer"):
        register_one()
    with pytest.raises(RegistryError, match="cannot record metrics of run .* does not answer"), run:
        run.log_metrics({"train_loss": 1.0}, step=2)


def test_a_step_waits_for_an_unavailable_server(tracking_server, tmp_path):
    tracking_server.kill()
    settings = Settings(home=tmp_path, tracking_uri=tracking_server.url, registry_wait=Seconds(LONG_TIMEOUT))
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        tracking_server.start()

    assert open_registry(settings, report).versions.champion() is None
    (line,) = lines
    assert "does not answer" in line
    assert line.endswith("Waiting up to 120 s for it.")


def test_a_step_does_not_wait_for_an_unknown_host(tmp_path):
    settings = Settings(home=tmp_path, tracking_uri="http://mlflow.invalid", registry_wait=Seconds(LONG_TIMEOUT))
    with pytest.raises(RegistryError, match="does not answer"):
        open_registry(settings, pytest.fail)
