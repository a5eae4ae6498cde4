"""What the tests of runs and versions share: an MLflow server, and a training that was recorded."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from image_classifier.datasets.dataset import Dataset, DatasetPart
from image_classifier.registry.registry import Registry, Version
from image_classifier.settings import Seconds, Settings
from tests.conftest import COLOURS, SIZE, colour_images, write_colour_package

START_SECONDS = 100


class TrackingServer:
    """A real `mlflow server` on a free port of the loopback address, which hands artifacts on itself."""

    def __init__(self, folder: Path, database: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._folder = folder
        shutil.copy(database, folder / "mlflow.db")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start without waiting; the address waits."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--port", str(self._port), "--workers", "1"),
                    *("--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"),
                    *("--artifacts-destination", str(self._folder / "artifacts")),
                ],
                cwd=self._folder,
                # It would start seven processes for evaluation jobs, each of which imports all of MLflow.
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def artifacts(self) -> Path:
        """The folder that it keeps artifacts in."""
        return self._folder / "artifacts"

    @property
    def address(self) -> str:
        """Where the server answers; it is started again where it was killed."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        address = f"http://127.0.0.1:{self._port}"
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                return address
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


def registry_at(home: Path, tracking_uri: str = "", name: str = "colours", timeout: float = 30) -> Registry:
    return Registry(
        Settings(home=home, tracking_uri=tracking_uri, name=name, registry_timeout=Seconds(timeout))
    )


def small_dataset(source: str = "colours") -> Dataset:
    part = DatasetPart(colour_images(), np.arange(len(COLOURS)), [f"{name}.png" for name in COLOURS])
    return Dataset(source, "d" * 64, tuple(COLOURS), SIZE, False, True, part, part, ())


def record_training(
    registry: Registry,
    folder: Path,
    fingerprint: str,
    *,
    tags: Mapping[str, str] | None = None,
    accompany: Callable[[Path], None] | None = None,
) -> Callable[[], Version]:
    """Record a run and leave its package in `folder`; gives a call that registers it, with more tags and files."""
    tags = {"fingerprint": fingerprint, "source_revision": "abc123", **(tags or {})}
    with registry.start_run(parameters={"seed": 0}, tags=tags, dataset=small_dataset()) as run:
        run.log_epoch({"validation_accuracy": 0.5}, step=1)
    write_colour_package(folder, run_id=run.id, fingerprint=fingerprint)
    return lambda: registry.register(run.id, folder, tags=tags, accompany=accompany)
