"""Helpers for tests of the registry: an MLflow server, registries, recorded trainings."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

from image_classifier.datasets.dataset import Dataset, DatasetPart
from image_classifier.registry.registry import Registry
from image_classifier.registry.store import RegistryOptions
from image_classifier.registry.versions import Version
from tests.conftest import COLORS, SIZE, color_images, write_color_package
from tests.ports import free_port

START_SECONDS = 100


class TrackingServer:
    """An `mlflow server` on a free port of the loopback address, which also serves the artifacts."""

    def __init__(self, folder: Path, database: Path) -> None:
        self._port = free_port()
        self._folder = folder
        shutil.copy(database, folder / "mlflow.db")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start without waiting until the server answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--port", str(self._port), "--workers", "1"),
                    *("--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"),
                    *("--artifacts-destination", str(self._folder / "artifacts")),
                ],
                cwd=self._folder,
                # Otherwise it starts seven processes for evaluation jobs, each of which imports all of MLflow.
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def artifacts(self) -> Path:
        """The folder of the artifacts."""
        return self._folder / "artifacts"

    @property
    def url(self) -> str:
        """The address, whether the server runs or not."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def address(self) -> str:
        """The address, once the server answers; it is started if it does not run."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return self.url
            except OSError:
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.05)

    def send(self, signal_number: int) -> None:
        """Send a signal to the server and its workers."""
        assert self._process is not None
        os.killpg(self._process.pid, signal_number)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGKILL)
            self._process.wait()


def registry_at(home: Path, tracking_uri: str = "", name: str = "colors", timeout: float = 30) -> Registry:
    return Registry(RegistryOptions(home=home, name=name, tracking_uri=tracking_uri, registry_timeout=timeout))


def small_dataset(source: str = "colors") -> Dataset:
    rows = np.arange(len(COLORS))
    part = DatasetPart(color_images(), rows, [f"{name}.png" for name in COLORS], rows.astype(np.uint64))
    return Dataset(source, "d" * 64, tuple(COLORS), SIZE, False, True, part, part, ())


def record_training(
    registry: Registry,
    folder: Path,
    fingerprint: str,
    *,
    tags: Mapping[str, str] | None = None,
    accompany: Callable[[Path], None] | None = None,
) -> Callable[[], Version]:
    """Record a run and write its package into `folder`; returns a function that registers it."""
    tags = {"fingerprint": fingerprint, "source_revision": "abc123", **(tags or {})}
    with registry.runs.start(parameters={"seed": 0}, tags=tags, dataset=small_dataset()) as run:
        run.log_metrics({"validation_accuracy": 0.5}, step=1)
    write_color_package(folder, run_id=run.id, fingerprint=fingerprint)
    return lambda: registry.versions.register(run.id, folder, tags=tags, accompany=accompany)


def register_packages(registry: Registry, folder: Path, *fingerprints: str) -> list[Version]:
    """Record a run for each fingerprint and register its package."""
    return [record_training(registry, folder / name, name)() for name in fingerprints]


def register_champions(registry: Registry, folder: Path, count: int) -> None:
    """Register `count` versions, each accepted and promoted before the next."""
    for number in range(count):
        version = record_training(registry, folder / str(number), f"fingerprint-{number}")()
        registry.versions.set_tags(version, {"verdict": "accepted", "data_digest": f"{number}" * 64})
        registry.history.promote(version, actor="chain", reason="accepted", image=f"server@sha256:{number}")


def model_folder(client: MlflowClient, model_id: str) -> Path:
    """The folder in which a local registry has the files of a logged model."""
    return Path(client.get_logged_model(model_id).artifact_location.removeprefix("file://"))
