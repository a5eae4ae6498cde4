"""Checkpoints of unfinished trainings, as artifacts of their runs on a tracking server: they outlive a lost pod."""

import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from image_classifier.errors import RegistryError
from image_classifier.registry.runs import SYSTEM_METRICS_SECONDS, Runs
from image_classifier.registry.store import Store, all_pages
from image_classifier.text import Report

_FOLDER, _FILE = "checkpoint", "state.safetensors"
_MIN_INTERVAL_SECONDS = 30.0
_MAX_TIME_FRACTION = 0.05  # of the training, for uploads
_LIVE_METRIC = "system/cpu_utilization_percentage"
_LIVE_SECONDS = 4 * SYSTEM_METRICS_SECONDS


class Checkpoints:
    """The checkpoints on a tracking server. A local registry has none, because the home folder keeps the file."""

    def __init__(self, store: Store, runs: Runs) -> None:
        self._store, self._runs = store, runs

    def fetch(self, fingerprint: str) -> tuple[str, bytes] | None:
        """The ID of the newest unfinished run with this fingerprint, and its checkpoint; None if there is none.

        A run that still records system metrics belongs to a training in progress, so it is skipped. That check takes
        20 s.
        """
        if not _is_server(self._store):
            return None
        condition = f"tags.fingerprint = '{fingerprint}' and attributes.status != 'FINISHED'"
        with self._store.failures("cannot look for the checkpoint of an interrupted training"):
            for run in all_pages(self._store.client.search_runs, [self._store.experiment_id], condition):
                content = self._runs.read_artifact(run.info.run_id, f"{_FOLDER}/{_FILE}")
                if content is not None and not (run.info.status == "RUNNING" and self._is_live(run.info.run_id)):
                    return run.info.run_id, content
        return None

    def _is_live(self, run_id: str) -> bool:
        before = len(self._store.client.get_metric_history(run_id, _LIVE_METRIC))
        time.sleep(_LIVE_SECONDS)
        return len(self._store.client.get_metric_history(run_id, _LIVE_METRIC)) > before

    def uploads(self, run_id: str, file: Path, report: Report) -> "CheckpointUploads":
        """Uploads of the checkpoint `file` to a run; failures are reported and do not end the training."""
        return CheckpointUploads(self._store, run_id, file, report, time.monotonic)


class CheckpointUploads:
    """Uploads the checkpoint of a training in the background, at most every 30 s and for 5 % of the time.

    As a context manager it waits at the end for an upload that has begun.
    """

    def __init__(self, store: Store, run_id: str, file: Path, report: Report, clock: Callable[[], float]) -> None:
        self._store, self._run_id, self._file, self._report, self._clock = store, run_id, file, report, clock
        self._executor = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._next = clock() + _MIN_INTERVAL_SECONDS

    def __enter__(self) -> "CheckpointUploads":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()

    def offer(self) -> None:
        """Start an upload of the file, unless one is in progress or the last one is too recent."""
        if not _is_server(self._store) or self._clock() < self._next or not self._file.exists():
            return
        if self._pending is None or self._pending.done():
            self._pending = self._executor.submit(self._upload)

    def _upload(self) -> None:
        started = self._clock()
        try:
            with (
                self._store.failures("the checkpoint was not stored, but the training continues"),
                tempfile.TemporaryDirectory() as folder,
            ):
                # A copy, because the training replaces the file.
                copy = shutil.copyfile(self._file, Path(folder) / _FILE)
                self._store.upload_run_file(self._run_id, copy, _FOLDER)
        except RegistryError as error:
            self._report(str(error))
        ended = self._clock()
        self._next = ended + max(_MIN_INTERVAL_SECONDS, (ended - started) / _MAX_TIME_FRACTION)

    def delete(self) -> None:
        """Delete the checkpoint of the run, whose training is over; a failure is reported."""
        if not _is_server(self._store):
            return
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self._executor.shutdown()
        try:
            with self._store.failures(f"the checkpoint of run {self._run_id} was not deleted"):
                if self._store.run_file(self._run_id, f"{_FOLDER}/{_FILE}") is not None:
                    place = self._store.client.get_run(self._run_id).info.artifact_uri
                    repository = get_artifact_repository(place, tracking_uri=self._store.uri)
                    repository.delete_artifacts(_FOLDER)  # type: ignore[no-untyped-call]
        except (RegistryError, NotImplementedError) as error:
            self._report(str(error) or f"this server cannot delete the checkpoint of run {self._run_id}")


def _is_server(store: Store) -> bool:
    return store.uri.startswith("http")
