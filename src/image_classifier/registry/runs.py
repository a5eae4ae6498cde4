"""Training runs in MLflow: parameters, metrics by epoch, the data set, figures, artifacts, system metrics."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from image_classifier.datasets import Dataset
from image_classifier.errors import LostError, RegistryError
from image_classifier.registry.artifact_paths import page_of_run
from image_classifier.registry.store import Store, all_pages, result_or_none
from image_classifier.text import clip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Characters that every tracking store keeps.
LONGEST_PARAMETER = 6000
LONGEST_RUN_TAG = 8000
_LONGEST_DATASET_NAME = 500
_LONGEST_DATASET_DIGEST = 36

SYSTEM_METRICS_SECONDS = 5
_BATCH = 100  # entries of one request
_PARENT = "mlflow.parentRunId"
"""The tag that nests a run under another."""

Item = TypeVar("Item")


class Run:
    """A run that takes records. As a context manager it ends FINISHED, and on an exception FAILED or KILLED.

    Every method raises RegistryError if the record was not stored.
    """

    def __init__(self, store: Store, run_id: str, *, trains: bool) -> None:
        """`trains` is False for records that are added after the training: their failure is not the run's."""
        self.id = run_id
        self._store = store
        self._trains = trains
        self._monitor: Any = None

    def __enter__(self) -> "Run":
        if self._trains:
            # Not public, but the public switch (mlflow.enable_system_metrics_logging) serves only MLflow's global
            # active run: https://mlflow.org/docs/latest/ml/tracking/system-metrics/
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            with self._store.failures(f"cannot start run {self.id}"):
                self._monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
                    self.id, sampling_interval=SYSTEM_METRICS_SECONDS, resume_logging=True, tracking_uri=self._store.uri
                )
                self._monitor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RegistryError):
            # The store cannot be reached; further attempts would only delay the error.
            return
        if self._monitor is not None:
            self._monitor.finish()
        if error is None:
            self.end("FINISHED")
        elif self._trains:
            try:
                self.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            except RegistryError as also:
                error.add_note(str(also))

    def end(self, status: str) -> None:
        """Record that the run is over: FINISHED, FAILED or KILLED. As a context manager the run does so itself."""
        with self._store.failures(f"cannot record the end of run {self.id}"):
            self._store.client.set_terminated(self.id, status)

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Log parameters, cut to the length that MLflow stores.

        MLflow's parameters cannot be changed: if a resumed run has another value, it becomes the tag `parameter.NAME`.
        """
        from mlflow.entities import Param, RunTag

        with self._store.failures(f"cannot record the parameters of run {self.id}"):
            known = self._store.client.get_run(self.id).data.params
            given = {name: clip(str(value), LONGEST_PARAMETER) for name, value in parameters.items()}
            for batch in _batches(Param(name, value) for name, value in given.items() if name not in known):
                self._store.client.log_batch(self.id, params=batch)
            changed = [name for name in given if known.get(name, given[name]) != given[name]]
            for tags in _batches(RunTag(f"parameter.{name}", given[name]) for name in changed):
                self._store.client.log_batch(self.id, tags=tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, cut to the length that MLflow stores."""
        from mlflow.entities import RunTag

        with self._store.failures(f"cannot set tags of run {self.id}"):
            for batch in _batches(RunTag(name, clip(value, LONGEST_RUN_TAG)) for name, value in tags.items()):
                self._store.client.log_batch(self.id, tags=batch)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics of an epoch, or of the whole run at step 0; NaN and infinity are stored as they are."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with self._store.failures(f"cannot record metrics of run {self.id}"):
            for batch in _batches(Metric(name, float(value), now, step) for name, value in values.items()):
                self._store.client.log_batch(self.id, metrics=batch)

    def steps_of(self, metric: str) -> set[int]:
        """The steps at which the run has a value of a metric."""
        with self._store.failures(f"cannot read metrics of run {self.id}"):
            return {value.step for value in self._store.client.get_metric_history(self.id, metric)}

    def log_dataset(self, dataset: Dataset) -> None:
        """Log the data set as an input for training: its digest and schema, not its images."""
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random

        # If two runs log a new data set at once, both insert it; the second finds it when it tries again.
        attempts = Retrying(
            retry=retry_if_exception(_is_conflict), stop=stop_after_attempt(5), wait=wait_random(0, 0.2), reraise=True
        )
        with self._store.failures(f"cannot record the data set of run {self.id}"):
            attempts(self._store.client.log_inputs, self.id, datasets=[_dataset_input(dataset)])

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Log a matplotlib figure as an image; the suffix of `path` selects the format."""
        self._upload(path, figure.savefig)

    def log_text(self, text: str, path: str) -> None:
        """Log text as a file."""
        self._upload(path, lambda file: file.write_text(text, encoding="utf-8"))

    def _upload(self, path: str, write: Callable[[Path], object]) -> None:
        parent, name = str(PurePosixPath(path).parent), PurePosixPath(path).name
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            write(file)
            with self._store.failures(f"cannot store the artifact {path} of run {self.id}"):
                self._store.upload_run_file(self.id, file, "" if parent == "." else parent)


class Runs:
    """The runs of a registered model. Every method raises RegistryError if the store cannot be used."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(
        self,
        *,
        parameters: Mapping[str, object],
        tags: Mapping[str, str],
        dataset: Dataset,
        run_id: str | None = None,
        name: str | None = None,
        parent: str = "",
    ) -> Run:
        """Start a training run, nested under the run `parent` if given, or resume `run_id` if it is of this model."""
        run_tags = {name: clip(str(value), LONGEST_RUN_TAG) for name, value in tags.items()}
        if tags.get("source_revision", "unknown") not in ("", "unknown"):
            # MLflow's pages show this tag as the version of the source.
            run_tags["mlflow.source.git.commit"] = tags["source_revision"].removesuffix("-changed")
        if parent:
            run_tags[_PARENT] = parent
        client, experiment = self._store.client, self._store.experiment_id
        with self._store.failures("cannot start a run"):
            if run_id is None or self.model_of(run_id) != self._store.name:
                run_id = str(client.create_run(experiment, tags=run_tags, run_name=name).info.run_id)
                run = Run(self._store, run_id, trains=True)
                run.log_dataset(dataset)
            else:
                client.update_run(run_id, status="RUNNING")
                run = Run(self._store, run_id, trains=True)
        run.log_parameters(parameters)
        return run

    def resume(self, run_id: str) -> Run:
        """A run whose training is over, to add records to it; raises LostError if the store lacks it."""
        with self._store.failures(f"cannot read run {run_id}"):
            self._require(run_id)
        return Run(self._store, run_id, trains=False)

    def running_children(self, parent: str) -> list[tuple[Run, Mapping[str, str]]]:
        """The unfinished runs nested under a run, with their tags."""
        condition = f"tags.`{_PARENT}` = '{parent}' and attributes.status = 'RUNNING'"
        with self._store.failures(f"cannot list the runs nested under {parent}"):
            found = all_pages(self._store.client.search_runs, [self._store.experiment_id], condition)
            return [(Run(self._store, run.info.run_id, trains=False), run.data.tags) for run in found]

    def read_artifact(self, run_id: str, path: str) -> bytes | None:
        """The content of a run's artifact, None if the run has none at that path."""
        with self._store.failures(f"cannot read the artifact {path} of run {run_id}"):
            self._require(run_id)
            if self._store.run_file(run_id, path) is None:
                return None
            with tempfile.TemporaryDirectory() as folder:
                return Path(self._store.client.download_artifacts(run_id, path, folder)).read_bytes()

    def metrics(self, run_id: str) -> dict[str, float]:
        """The metrics of a run, by name; none if the run no longer exists."""
        with self._store.failures(f"cannot read the metrics of run {run_id}"):
            run = result_or_none(self._store.client.get_run, run_id)
            return {} if run is None else dict(run.data.metrics)

    def model_of(self, run_id: str) -> str | None:
        """The name of the registered model that a run trains, which is its experiment's; None if there is no run."""
        with self._store.failures(f"cannot read run {run_id}"):
            if not self._exists(run_id):
                return None
            experiment = self._store.client.get_run(run_id).info.experiment_id
            return str(self._store.client.get_experiment(experiment).name)

    def page_of(self, run_id: str, path: str = "") -> str:
        """Web page of a run, or of one of its artifacts; "" for a local registry, which has no pages."""
        if not self._store.shown.startswith("http"):
            return ""
        return page_of_run(self._store.shown, self._store.experiment_id, run_id, path)

    def _require(self, run_id: str) -> None:
        if not self._exists(run_id):
            raise LostError(
                f"the registry at {self._store.shown} has no run {run_id}: use the --tracking-uri and --home of the "
                "training, or train again"
            )

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._store.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return False
            raise


def _is_conflict(error: BaseException) -> bool:
    """Whether a database refused a row because another process inserted it: SQLite, PostgreSQL, MySQL."""
    return any(mark in str(error) for mark in ("IntegrityError", "UniqueViolation", "Duplicate entry"))


def _dataset_input(dataset: Dataset) -> Any:
    import numpy as np
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.entities import Dataset as LoggedDataset, DatasetInput, InputTag
    from mlflow.types import Schema, TensorSpec

    size = dataset.image_size
    schema = TensorDatasetSchema(
        features=Schema([TensorSpec(np.dtype(np.uint8), (-1, size, size, 3), "image")]),
        targets=Schema([TensorSpec(np.dtype(np.int64), (-1,), "label")]),
    )
    train, test = len(dataset.train.labels), len(dataset.test.labels)
    profile = {"train_images": train, "test_images": test, "classes": len(dataset.classes)}
    logged = LoggedDataset(
        name=clip(dataset.source, _LONGEST_DATASET_NAME),
        # MLflow's digests are short; the source holds the whole one.
        digest=dataset.digest[:_LONGEST_DATASET_DIGEST],
        source_type="image-classifier",
        source=json.dumps({"uri": dataset.source, "sha256": dataset.digest}),
        schema=json.dumps(schema.to_dict()),
        profile=json.dumps(profile),
    )
    return DatasetInput(logged, [InputTag("mlflow.data.context", "training")])


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    values = list(items)
    for first in range(0, len(values), _BATCH):
        yield values[first : first + _BATCH]
