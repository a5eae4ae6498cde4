"""A training run in MLflow: parameters, metrics an epoch, the data set, figures, system metrics."""

import json
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from image_classifier.datasets import Dataset
from image_classifier.errors import LostError, RegistryError
from image_classifier.registry.store import Store
from image_classifier.text import clip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_PARAMETER = 6000
LONGEST_RUN_TAG = 8000
_LONGEST_DATASET_NAME = 500
_LONGEST_DATASET_DIGEST = 36
_SYSTEM_METRICS_SECONDS = 5
_BATCH = 100
_PARENT = "mlflow.parentRunId"
"""The tag that nests a run in another."""

Item = TypeVar("Item")


class Run:
    """A run that takes records. As a context manager it ends FINISHED, on an exception FAILED or KILLED.

    Every method raises RegistryError where the record was not stored.
    """

    def __init__(self, store: Store, run_id: str, *, trains: bool) -> None:
        """`trains` is False for records that are added after the training: their failure is not the run's."""
        self.id = run_id
        self._store = store
        self._trains = trains
        self._monitor: Any = None

    def __enter__(self) -> "Run":
        if self._trains:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            with self._store.failures(f"run {self.id} cannot be started"):
                self._monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
                    self.id,
                    sampling_interval=_SYSTEM_METRICS_SECONDS,
                    resume_logging=True,
                    tracking_uri=self._store.uri,
                )
                self._monitor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RegistryError):
            # The store is out of reach; more attempts would only delay saying so.
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
        """Record that the run is over: FINISHED, FAILED or KILLED. Without a call where it is a context manager."""
        with self._store.failures(f"the end of run {self.id} was not recorded"):
            self._store.client.set_terminated(self.id, status)

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Log parameters, cut to the length that MLflow stores.

        MLflow's parameters can be written once. Where a resumed run chose another value, the first stays and
        the new one becomes the tag `parameter.NAME`.
        """
        from mlflow.entities import Param, RunTag

        with self._store.failures(f"the parameters of run {self.id} were not recorded"):
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

        with self._store.failures(f"run {self.id} was not tagged"):
            for batch in _batches(RunTag(name, clip(value, LONGEST_RUN_TAG)) for name, value in tags.items()):
                self._store.client.log_batch(self.id, tags=batch)

    def log_epoch(self, values: Mapping[str, float], step: int) -> None:
        """Log the metrics of an epoch; NaN and infinity are stored as they are."""
        self._log_metrics(values, step)

    def log_metrics(self, values: Mapping[str, float]) -> None:
        """Log metrics of the whole run."""
        self._log_metrics(values, 0)

    def _log_metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with self._store.failures(f"metrics of run {self.id} were not recorded"):
            for batch in _batches(Metric(name, float(value), now, step) for name, value in values.items()):
                self._store.client.log_batch(self.id, metrics=batch)

    def log_dataset(self, dataset: Dataset) -> None:
        """Log the data set as an input for training: its digest and schema, not its images."""
        with self._store.failures(f"the data set of run {self.id} was not recorded"):
            self._store.client.log_inputs(self.id, datasets=[_dataset_input(dataset)])

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Log a matplotlib figure as an image; the suffix of `path` names the format."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / PurePosixPath(path).name
            figure.savefig(file)
            self._upload(file, path)

    def log_text(self, text: str, path: str) -> None:
        """Log text as a file."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / PurePosixPath(path).name
            file.write_text(text, encoding="utf-8")
            self._upload(file, path)

    def _upload(self, file: Path, path: str) -> None:
        parent = str(PurePosixPath(path).parent)
        with self._store.failures(f"the artifact {path} of run {self.id} was not stored"):
            self._store.upload_run_file(self.id, file, "" if parent == "." else parent)


def start_run(
    store: Store,
    *,
    parameters: Mapping[str, object],
    tags: Mapping[str, str],
    dataset: Dataset,
    run_id: str | None = None,
    name: str | None = None,
    parent: str = "",
) -> Run:
    """Start a run, or go on with `run_id` where the store has it.

    It has a name of MLflow's own unless one is given, and is nested under the run `parent` if there is one.
    """
    run_tags = {name: clip(str(value), LONGEST_RUN_TAG) for name, value in tags.items()}
    if tags.get("source_revision", "unknown") not in ("", "unknown"):
        # What MLflow's pages show as the version of the source.
        run_tags["mlflow.source.git.commit"] = tags["source_revision"].removesuffix("-changed")
    if parent:
        run_tags[_PARENT] = parent
    experiment = store.experiment_id
    with store.failures("no run can be started"):
        if run_id is None or not _run_exists(store, run_id):
            run_id = str(store.client.create_run(experiment, tags=run_tags, run_name=name).info.run_id)
            run = Run(store, run_id, trains=True)
            run.log_dataset(dataset)
        else:
            store.client.update_run(run_id, status="RUNNING")
            run = Run(store, run_id, trains=True)
    run.log_parameters(parameters)
    return run


def running_children(store: Store, parent: str) -> list[tuple[Run, Mapping[str, str]]]:
    """The runs nested under a run that are not over, and their tags."""
    condition = f"tags.`{_PARENT}` = '{parent}' and attributes.status = 'RUNNING'"
    found: list[tuple[Run, Mapping[str, str]]] = []
    token = None
    with store.failures(f"the runs nested under {parent} cannot be listed"):
        while True:
            page = store.client.search_runs([store.experiment_id], condition, page_token=token)
            found += [(Run(store, run.info.run_id, trains=False), run.data.tags) for run in page]
            token = page.token
            if not token:
                return found


def resume_run(store: Store, run_id: str) -> Run:
    """A run whose training is over, to add records to it; raises RegistryError where the store lacks it."""
    with store.failures(f"run {run_id} cannot be read"):
        require_run(store, run_id)
    return Run(store, run_id, trains=False)


def require_run(store: Store, run_id: str) -> None:
    """Raise LostError where the store has no such run."""
    if not _run_exists(store, run_id):
        raise LostError(
            f"the registry at {store.shown} has no run {run_id}: use the --tracking-uri and --home that the "
            "training used, or train again"
        )


def _run_exists(store: Store, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(store.client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise


def _dataset_input(dataset: Dataset) -> Any:
    import numpy as np
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.entities import Dataset as LoggedDataset
    from mlflow.entities import DatasetInput, InputTag
    from mlflow.types import Schema, TensorSpec

    size = dataset.image_size
    schema = TensorDatasetSchema(
        features=Schema([TensorSpec(np.dtype(np.uint8), (-1, size, size, 3), "image")]),
        targets=Schema([TensorSpec(np.dtype(np.int64), (-1,), "label")]),
    )
    profile = {
        "train_images": len(dataset.train.labels),
        "test_images": len(dataset.test.labels),
        "classes": len(dataset.classes),
    }
    logged = LoggedDataset(
        name=clip(dataset.source, _LONGEST_DATASET_NAME),
        # MLflow's digests are short; the whole one is in the source.
        digest=dataset.digest[:_LONGEST_DATASET_DIGEST],
        source_type="image-classifier",
        source=json.dumps({"uri": dataset.source, "sha256": dataset.digest}),
        schema=json.dumps(schema.to_dict()),
        profile=json.dumps(profile),
    )
    return DatasetInput(logged, [InputTag("mlflow.data.context", "training")])


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    values = list(items)
    for number in range(math.ceil(len(values) / _BATCH)):
        yield values[number * _BATCH : (number + 1) * _BATCH]
