"""The same registry behind a real `mlflow server` that hands on the artifacts."""

import signal
import time
import urllib.parse

import pytest

from image_classifier.errors import RegistryError
from image_classifier.package.package import Package
from image_classifier.settings import Seconds, Settings
from image_classifier.steps.registry_access import open_registry
from tests.registry.mlflow_helpers import record_training, registry_at

PATIENT = 120
"""Seconds: a machine that runs other tests, too, may let the server wait."""


def test_a_version_is_registered_promoted_and_fetched_over_http(tracking_server, tmp_path):
    registry = registry_at(tmp_path, tracking_server.address, timeout=PATIENT)
    registry.check()
    version = record_training(registry, tmp_path / "package", "one")()
    # The server sends versions as text.
    assert version.number == 1
    assert type(version.number) is int
    assert registry.find("one") == version == registry.get("candidate")
    address = registry.address_of(version)
    assert address == f"{version.uri}?tracking_uri={tracking_server.address}"
    assert registry.get(address) == version
    registry.promote(version, actor="ada", reason="the first")
    assert registry.champion().number == 1
    assert [(event.action, event.version, event.reason) for event in registry.history()] == [
        ("promoted", 1, "the first")
    ]
    with registry.resume_run(version.run_id) as run:
        run.log_text("{}", "evaluation/evaluation.json")
    assert registry.read_artifact(version.run_id, "evaluation/evaluation.json") == b"{}"
    assert registry.read_artifact(version.run_id, "no/such.json") is None
    fetched = Package.read(registry.download(version, tmp_path / "fetched"))
    assert fetched.digest == Package.read(tmp_path / "package").digest
    # Nothing of it is on this side of the connection.
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "artifacts").exists()


def test_a_reference_to_nothing_is_named_over_http(tracking_server, tmp_path):
    registry = registry_at(tmp_path, tracking_server.address, name="nothing", timeout=PATIENT)
    assert registry.champion() is None
    assert registry.history() == []
    assert registry.find("one") is None
    with pytest.raises(RegistryError, match="nothing has no version 7"):
        registry.get("7")
    with pytest.raises(RegistryError, match="has no run"):
        registry.resume_run("0" * 32)


def test_a_server_that_refuses_to_be_called_by_a_name_is_told_to_allow_it(tracking_server, tmp_path):
    port = urllib.parse.urlsplit(tracking_server.address).port
    with pytest.raises(RegistryError, match=rf"called 127\.1:{port}: start it with --allowed-hosts"):
        registry_at(tmp_path, f"http://127.1:{port}", timeout=PATIENT).check()


def test_a_server_that_stops_answering_fails_each_step_in_time_and_a_repeat_makes_one_version(
    tracking_server, tmp_path
):
    registry = registry_at(tmp_path, tracking_server.address, name="hanging", timeout=PATIENT)
    register_it = record_training(registry, tmp_path / "package", "one")
    impatient = registry_at(tmp_path, tracking_server.address, name="hanging", timeout=1)
    tracking_server.send(signal.SIGSTOP)
    try:
        for step in (lambda: impatient.find("one"), impatient.check):
            started = time.monotonic()
            with pytest.raises(RegistryError, match="did not answer in time") as caught:
                step()
            assert "\n" not in str(caught.value)
            assert time.monotonic() - started < 5
    finally:
        tracking_server.send(signal.SIGCONT)
    assert register_it().number == register_it().number == 1


def test_a_server_that_is_killed_fails_each_step(tracking_server, tmp_path):
    registry = registry_at(tmp_path, tracking_server.address, name="killed", timeout=PATIENT)
    register_it = record_training(registry, tmp_path / "package", "one")
    run = registry.resume_run(Package.read(tmp_path / "package").provenance["run_id"])
    tracking_server.kill()
    with pytest.raises(RegistryError, match="the versions of killed cannot be read: .* does not answer"):
        register_it()
    with pytest.raises(RegistryError, match="metrics .* were not recorded: .* does not answer"), run:
        run.log_epoch({"train_loss": 1.0}, step=2)


def test_a_server_that_is_down_is_waited_for(tracking_server, tmp_path):
    address = tracking_server.address
    tracking_server.kill()
    settings = Settings(home=tmp_path, tracking_uri=address, registry_wait=Seconds(PATIENT))
    said: list[str] = []

    def report(line: str) -> None:
        said.append(line)
        tracking_server.start()

    assert open_registry(settings, report).champion() is None
    (line,) = said
    assert "does not answer" in line
    assert "for up to 120 s" in line


def test_a_server_whose_name_nobody_knows_is_not_waited_for(tmp_path):
    settings = Settings(home=tmp_path, tracking_uri="http://mlflow.invalid", registry_wait=Seconds(PATIENT))
    with pytest.raises(RegistryError, match="does not answer"):
        open_registry(settings, pytest.fail)
