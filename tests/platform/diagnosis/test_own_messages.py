"""The patterns of causes match the messages that this program really writes: each one is produced here.

A message that is reworded without its pattern fails a test.
"""

import io
import re
import socket
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from image_classifier.cli import main
from image_classifier.errors import ImageClassifierError
from image_classifier.package.package import GoldenImage
from image_classifier.platform import storage_initializer, training_job
from image_classifier.platform.acceptance import ExpectedServer, try_candidate
from image_classifier.platform.diagnosis.causes import CAUSES, recognize_cause
from image_classifier.platform.diagnosis.evidence import FAILED, Origin, Symptom
from image_classifier.platform.diagnosis.pod_symptoms import NOT_READY
from image_classifier.platform.project_source import SuiteOutcome, fetch_source, run_tests
from image_classifier.platform.storage_initializer import download_version
from image_classifier.platform.training_job import training_pods
from image_classifier.registry import Decision
from image_classifier.settings import Seconds, Settings, load_settings
from image_classifier.steps.accept import accept
from image_classifier.steps.data import data
from tests.platform.conftest import SERVER_IMAGE
from tests.ports import free_port
from tests.registry.mlflow_helpers import record_training, registry_at

CHAIN = Path(__file__).parents[3] / "config" / "chain"
TESTED = {
    "candidate-differs",
    "candidate-late",
    "candidate-slow",
    "data-missing",
    "data-not-fetched",
    "mlflow-down",
    "mlflow-refuses",
    "mlflow-unwell",
    "model-damaged",
    "not-the-project",
    "param-not-usable",
    "program-failed",
    "refused",
    "step-failed",
    "test-failed",
    "tracking-address-wrong",
    "version-missing",
    "version-refused",
}


def recognized(message, origin=Origin.RESULT, reason=FAILED):
    """The cause of a message, as a step that fails writes it to its results."""
    symptom = Symptom(origin, "TaskRun flowers-1", reason, message)
    return recognize_cause([symptom], workload="flowers", namespace="team", resource="train")


def cause_of(function, *arguments, **options):
    """The recognized cause of the error that a function raises."""
    with pytest.raises(ImageClassifierError) as raised:
        function(*arguments, **options)
    return recognized(str(raised.value))


def name_of(function, *arguments, **options):
    return cause_of(function, *arguments, **options).name


def test_every_cause_for_own_messages_is_tested():
    own = {cause.name for cause in CAUSES if cause.origins and Origin.CONDITION not in cause.origins}
    assert own == TESTED


@pytest.mark.parametrize(("name", "value"), [("BUDGET", "abc"), ("THREADS", "1.5"), ("SEED", "it's")])
def test_a_setting_with_an_invalid_value(name, value):
    cause = cause_of(load_settings, {}, {f"IMAGE_CLASSIFIER_{name}": value})
    assert cause.name == "param-not-usable"
    assert f"--param {name.lower()}=VALUE" in cause.advice


def test_a_param_with_an_invalid_value():
    assert name_of(load_settings, {}, {}, {"seed": 2.5}) == "param-not-usable"


def test_an_unknown_param():
    cause = cause_of(load_settings, {}, {}, {"bugdet": "5s"})
    assert cause.name == "param-unknown"
    assert "--param bugdet-" in cause.advice


def template_failures():
    for path in sorted(CHAIN.glob("*.yaml")):
        for text in re.findall(r'assert\.fail\("([^"]*)"', path.read_text(encoding="utf-8")):
            yield pytest.param(text.replace("{}", '\\"x\\"'), id=f"{path.stem}: {text[:40]}")


@pytest.mark.parametrize("message", list(template_failures()))
def test_an_assertion_of_the_supply_chain(message):
    """As Cartographer reports it."""
    message = f"unable to apply ytt template: {{ytt: Error: \n- assert.fail: fail: {message}\n    in <toplevel>"
    cause = recognized(message, Origin.CONDITION, "TemplateStampFailure")
    expected = "param-unknown" if "no workload param" in message else "param-wrong"
    assert cause.name == expected


def failing_log(*arguments):
    """The log of a container whose command fails."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    return result.stderr


def test_an_error_in_the_log_of_a_server():
    message = failing_log("serve", "--model", "no-such-folder")
    assert recognized(message, Origin.LOG, "").name == "program-failed"
    message = failing_log("serve", "--threads", "abc")
    assert recognized(message, Origin.LOG, "").name == "param-not-usable"


def test_an_unknown_error_of_a_step():
    assert recognized("something else").name == "step-failed"


def test_a_server_that_is_not_ready():
    assert recognized("it has been running", Origin.CONTAINER, NOT_READY).name == "never-ready"


@pytest.mark.parametrize("decision", [Decision.REFUSED, Decision.HELD])
def test_a_model_that_the_gate_does_not_accept(decision):
    cause = recognized("accuracy is low", reason=decision)
    assert (cause.name, cause.meaning) == ("refused", f"the gate {decision} the new model: accuracy is low")


def test_failed_tests():
    outcome = SuiteOutcome(2000, tuple(f"test_{number}" for number in range(1000)))
    assert recognized(outcome.summary).name == "test-failed"


@pytest.mark.parametrize("sub_path", ["", "app"])
def test_a_source_without_the_project(tmp_path, sub_path):
    with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("README.md"), io.BytesIO())
    url = (tmp_path / "source.tar.gz").as_uri()
    options = {"sub_path": sub_path, "timeout": 5, "wait": 0, "report": print}
    assert name_of(fetch_source, url, tmp_path / "source", **options) == "not-the-project"


def test_a_source_without_tests(tmp_path, monkeypatch):
    no_tests = subprocess.CompletedProcess([], returncode=5)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: no_tests)
    assert name_of(run_tests, tmp_path) == "not-the-project"


def read_data(tmp_path, address, **settings):
    data(replace(Settings(), home=tmp_path, data=address, **settings), print)


def test_data_that_does_not_exist(tmp_path):
    assert name_of(read_data, tmp_path, "no-such-data") == "data-missing"


@pytest.mark.parametrize("status", [401, 404, 500])
def test_data_that_the_server_does_not_return(tmp_path, http_answers, status):
    http_answers.answer = (status, b"")
    assert name_of(read_data, tmp_path, f"{http_answers.address}/photos.zip") == "data-not-fetched"


def test_data_from_a_server_that_does_not_answer(tmp_path):
    address = f"http://127.0.0.1:{free_port()}/photos.zip"
    assert name_of(read_data, tmp_path, address) == "data-not-fetched"


def test_data_from_a_server_that_is_too_slow(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/photos.zip"
        name = name_of(read_data, tmp_path, address, fetch_timeout=Seconds(0.05))
    assert name == "data-not-fetched"


def find_version(tmp_path, tracking_uri):
    registry_at(tmp_path, tracking_uri, timeout=1).versions.find("fingerprint")


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (401, b"", "mlflow-refuses"),
        (403, b"", "mlflow-refuses"),
        (403, b"Invalid Host header - possible DNS rebinding attack detected", "mlflow-refuses"),
        (404, b"<html>", "tracking-address-wrong"),
        (200, b"<html>", "tracking-address-wrong"),
        (503, b"", "mlflow-unwell"),
    ],
)
def test_a_tracking_server_that_answers_with_an_error(tmp_path, http_answers, status, body, cause):
    http_answers.answer = (status, body)
    assert name_of(find_version, tmp_path, http_answers.address) == cause


def test_a_tracking_server_that_does_not_answer(tmp_path):
    assert name_of(find_version, tmp_path, f"http://127.0.0.1:{free_port()}") == "mlflow-down"


def test_a_tracking_server_whose_name_does_not_exist(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    cause = cause_of(find_version, tmp_path, "http://no-such-mlflow:5000")
    assert cause.name == "tracking-address-wrong"
    assert "http://no-such-mlflow:5000" in cause.meaning


def download(tmp_path, address):
    download_version("models:/flowers/3", tmp_path, tracking_uri=address, timeout=1, credentials={})


def test_a_version_that_the_storage_initializer_does_not_find(tmp_path, http_answers):
    http_answers.answer = (404, b'{"message": "not found"}')
    cause = cause_of(download, tmp_path, http_answers.address)
    assert (cause.name, cause.meaning) == ("version-missing", "the registry has no version 3 of flowers")


def test_a_registry_that_the_storage_initializer_does_not_reach(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_initializer, "_RETRY_SECONDS", ())
    address = f"http://127.0.0.1:{free_port()}"
    cause = cause_of(download, tmp_path, address)
    assert (cause.name, cause.meaning) == ("mlflow-down", f"the MLflow server {address} does not answer")


def test_another_server_than_mlflow_for_the_storage_initializer(tmp_path, http_answers):
    http_answers.answer = (200, b"<html>")
    assert name_of(download, tmp_path, http_answers.address) == "tracking-address-wrong"


def test_a_damaged_version_in_the_storage_initializer(tmp_path, http_answers):
    info = b'{"artifact_uri": "mlflow-artifacts:/1", "experiment_id": "1"}'
    http_answers.first_answers = [
        (200, b'{"model_version": {"source": "models:/m-1", "run_id": "r"}}'),
        (200, b'{"model": {"info": %s}}' % info),
    ]
    http_answers.answer = (200, b"not a manifest")
    cause = cause_of(download, tmp_path, http_answers.address)
    assert cause.name == "model-damaged"
    assert cause.meaning == "the registered files of version 3 of flowers are damaged"


def test_a_damaged_version_in_a_step(registry, tmp_path):
    version = registry.versions.get("2")
    [model] = registry._store._artifacts.rglob(f"{version.model_id}/**/model.onnx")
    content = model.read_bytes()
    model.write_bytes(b"damaged")
    try:
        assert name_of(registry.versions.download, version, tmp_path / "served") == "model-damaged"
    finally:
        model.write_bytes(content)


@pytest.mark.parametrize("verdict", [Decision.REFUSED, Decision.HELD, None])
def test_a_version_that_the_gate_did_not_accept(registry, tmp_path, verdict):
    version = record_training(registry, tmp_path / "new", f"new-{verdict}")()
    registry.versions.set_tags(version, {"verdict": verdict or ""})
    settings = replace(
        Settings(),
        home=registry._store._artifacts.parent,
        name=registry.name,
        model=str(version.number),
        image="server@b",
    )
    cause = cause_of(accept, settings, print)
    assert cause.name == "version-refused"
    assert cause.meaning == f"version {version.number} is {verdict or 'not judged'} by the gate, so it is not served"


def try_server(url, package, *, max_latency=10.0):
    expected = ExpectedServer("7", SERVER_IMAGE)
    try_candidate(url, package, expected, max_latency=max_latency, timeout=0, report=print)


def test_a_candidate_that_does_not_answer(served_package):
    address = f"http://127.0.0.1:{free_port()}"
    cause = cause_of(try_server, address, served_package)
    assert cause.name == "candidate-late"
    assert f"the candidate at {address} did not answer as version 7" in cause.meaning


@pytest.mark.slow
def test_a_candidate_that_is_slow_or_gives_other_answers(ready_server_url, served_package):
    assert name_of(try_server, ready_server_url, served_package, max_latency=1e-6) == "candidate-slow"
    golden = served_package.golden[0]
    other = GoldenImage(golden.png, golden.label, tuple(reversed(golden.probabilities)))
    broken = GoldenImage(b"no image", golden.label, golden.probabilities)
    for image in (other, broken):
        package = replace(served_package, golden=(image, *served_package.golden[1:]))
        assert name_of(try_server, ready_server_url, package) == "candidate-differs"


def test_training_pods_that_may_not_be_created(tmp_path, monkeypatch):
    from kubernetes import client, config

    def deny(*_, **__):
        raise client.ApiException(status=403, reason="Forbidden")

    (tmp_path / "namespace").write_text("team", encoding="utf-8")
    monkeypatch.setattr(training_job, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setattr(config, "load_incluster_config", lambda: None)
    monkeypatch.setattr(client.CoreV1Api, "read_namespaced_pod", deny)

    def start():
        with training_pods({"HOSTNAME": "flowers-train"}, processes=2):
            pass

    assert name_of(start) == "distributed-not-allowed"
