"""Fixtures: a fake cluster, recorded diagnoses, a registry with two versions, a clock, a served model."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from image_classifier.package.package import Package
from image_classifier.platform.cluster import Cluster
from image_classifier.platform.diagnosis.collector import collect_evidence
from image_classifier.platform.diagnosis.diagnosis import Diagnosis, diagnose
from image_classifier.registry.registry import Registry
from image_classifier.registry.versions import Version
from tests.platform.api_server import ApiServer, ClusterState, running, write_kubeconfig
from tests.platform.record import FOLDER, WORKLOAD
from tests.ports import free_port
from tests.registry.mlflow_helpers import record_training, registry_at

SERVER_IMAGE = "registry.example.org/server@sha256:" + "1" * 64


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    with running(ApiServer()) as server:
        yield server


@pytest.fixture
def connect(
    api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[ClusterState], Cluster]:
    """Connects to a cluster with a state."""

    def connect(state: ClusterState) -> Cluster:
        api_server.state = state
        write_kubeconfig(tmp_path / "kubeconfig", api_server.address)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        return Cluster.connect()

    return connect


@pytest.fixture
def cluster(connect: Callable[[ClusterState], Cluster], state: ClusterState) -> Cluster:
    """The cluster with the module's fixture `state`."""
    return connect(state)


@pytest.fixture
def diagnose_recording(connect: Callable[[ClusterState], Cluster]) -> Callable[..., Diagnosis]:
    """The diagnosis of a recording, after a change of its state."""

    def diagnose_recording(name: str, change: Callable[[ClusterState], Any] = lambda _: None) -> Diagnosis:
        content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        state = ClusterState(content["objects"], content["logs"])
        change(state)
        return diagnose(collect_evidence(connect(state), WORKLOAD, datetime.fromisoformat(content["now"])))

    return diagnose_recording


@pytest.fixture(scope="module")
def registered_version(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """A complete version, whose run and files the versions of each test share."""
    folder = tmp_path_factory.mktemp("registered") / "package"
    return record_training(registry_at(home, name="shared"), folder, "fingerprint")()


@pytest.fixture
def registry(registry: Registry, registered_version: Version) -> Registry:
    """Versions 1 and 2, accepted and promoted one after the other."""
    shared = registered_version
    for image in ("server@a", "server@b"):
        tags = {**shared.tags, "verdict": "accepted"}
        version = registry.versions._create(shared.run_id, shared.model_id, tags)
        registry.history.promote(version, actor="chain", reason="accepted", image=image)
    return registry


class FakeClock:
    """Replaces the module `time`: sleeping advances the clock at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.at: dict[float, Callable[[], object]] = {}
        """Calls to make when the clock reaches a time."""

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        for moment in [moment for moment in self.at if moment <= self.now]:
            self.at.pop(moment)()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock of tenacity's retries."""
    clock = FakeClock()
    monkeypatch.setattr("tenacity.time", clock)
    monkeypatch.setattr("tenacity.nap.time", clock)
    return clock


@pytest.fixture(scope="session")
def web_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of a web server for its files."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    folder = tmp_path_factory.mktemp("web")
    handler = functools.partial(Handler, directory=folder)
    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield folder, f"http://127.0.0.1:{server.server_port}"


class FixedAnswers(http.server.ThreadingHTTPServer):
    """Answers every request with the status and body of `answer`, or of the next one in `first_answers`."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, b"")
        self.first_answers: list[tuple[int, bytes]] = []
        self.paths: list[str] = []
        super().__init__(("127.0.0.1", 0), _FixedAnswersHandler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _FixedAnswersHandler(http.server.BaseHTTPRequestHandler):
    server: FixedAnswers

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.paths.append(self.path)
        status, body = self.server.first_answers.pop(0) if self.server.first_answers else self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815 (the name is http.server's)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def http_answers() -> Iterator[FixedAnswers]:
    with running(FixedAnswers()) as server:
        yield server


@pytest.fixture(scope="session")
def served_package(package_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package as the storage initializer leaves it: version 7 of the model colors."""
    folder = tmp_path_factory.mktemp("served") / "package"
    shutil.copytree(package_folder, folder)
    about = {"name": "colors", "version": 7, "uri": "models:/colors/7"}
    (folder / "version.json").write_text(json.dumps(about), encoding="utf-8")
    return Package.read(folder)


@pytest.fixture(scope="session")
def server_url(served_package: Package) -> Iterator[str]:
    """The address of a real server of `served_package`, which is starting."""
    port = free_port()
    command = [sys.executable, "-m", "image_classifier.cli", "serve"]
    options = ["--model", str(served_package.folder), "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "IMAGE_CLASSIFIER_IMAGE": SERVER_IMAGE}
    process = subprocess.Popen([*command, *options], env=environment)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def ready_server_url(server_url: str) -> str:
    """The address of the real server when it is ready."""
    while True:
        try:
            urllib.request.urlopen(f"{server_url}/readyz").close()
            return server_url
        except OSError:
            time.sleep(0.02)
