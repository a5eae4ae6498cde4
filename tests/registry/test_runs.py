"""Runs in a SQLite store."""

import json
import math
import shutil
import sqlite3
import time
from contextlib import closing

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from sqlalchemy import Engine, event

from image_classifier.errors import RegistryError
from image_classifier.registry.runs import LONGEST_PARAMETER
from tests.registry.mlflow_helpers import registry_at, small_dataset

pytestmark = pytest.mark.slow

START = {"parameters": {}, "tags": {}, "dataset": small_dataset()}


@pytest.fixture(scope="module")
def home(tmp_path_factory, empty_database):
    home = tmp_path_factory.mktemp("home with a space and an ü")
    shutil.copy(empty_database, home)
    return home


@pytest.fixture
def registry(home):
    return registry_at(home)


@pytest.fixture
def client(home):
    return MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def test_a_run_has_parameters_tags_and_metrics_by_epoch_and_ends_finished(registry, client):
    parameters = {"seed": 3, "budget": 20.0, "retrain": "", "mirror": False}
    tags = {"fingerprint": "f", "source_revision": "abc123-changed"}
    with registry.runs.start(parameters=parameters, tags=tags, dataset=small_dataset()) as run:
        for epoch in (1, 2, 3):
            run.log_metrics({"train_loss": 1 / epoch, "validation_accuracy": 0.3 * epoch}, step=epoch)
        run.log_parameters({"width": 64})
        run.log_metrics({"accuracy": 0.9})
    stored = client.get_run(run.id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {
        "seed": "3", "budget": "20.0", "retrain": "", "mirror": "False", "width": "64",
    }  # fmt: skip
    assert stored.data.tags["fingerprint"] == "f"
    assert stored.data.tags["mlflow.source.git.commit"] == "abc123"
    history = client.get_metric_history(run.id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert stored.data.metrics["accuracy"] == 0.9


def test_the_data_set_is_a_training_input_with_its_digest(registry, client):
    with registry.runs.start(**START) as run:
        pass
    (logged,) = client.get_run(run.id).inputs.dataset_inputs
    assert logged.dataset.name == "colors"
    assert logged.dataset.digest == "d" * 36
    assert json.loads(logged.dataset.source) == {"uri": "colors", "sha256": "d" * 64}
    assert json.loads(logged.dataset.profile)["train_images"] == 4
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]


def test_two_processes_can_log_the_same_new_data_set_at_once(registry, client, home):
    """Both find it missing, and both insert it: the second violates MLflow's unique constraint."""
    inserted = []

    def insert_first(connection, cursor, statement, parameters, context, executemany):
        if statement.startswith("INSERT INTO datasets") and not inserted:
            with closing(sqlite3.connect(home / "mlflow.db")) as other, other:
                inserted.append(other.execute(statement, parameters).rowcount)

    event.listen(Engine, "before_cursor_execute", insert_first)
    try:
        with registry.runs.start(parameters={}, tags={}, dataset=small_dataset("logged at once")) as run:
            pass
    finally:
        event.remove(Engine, "before_cursor_execute", insert_first)
    assert inserted == [1]
    (logged,) = client.get_run(run.id).inputs.dataset_inputs
    assert logged.dataset.name == "logged at once"


def test_a_very_long_address_of_a_data_set_is_cut(registry, client):
    with registry.runs.start(parameters={}, tags={}, dataset=small_dataset("s3://" + "x" * 900)) as run:
        pass
    assert client.get_run(run.id).inputs.dataset_inputs[0].dataset.name.startswith("s3://xxx")


def test_long_parameters_and_tags_are_cut(registry, client):
    long = "x" * 20_000
    with registry.runs.start(parameters={"classes": long}, tags={"note": long}, dataset=small_dataset()) as run:
        pass
    stored = client.get_run(run.id).data
    assert stored.params["classes"] == long[: LONGEST_PARAMETER - 2] + " …"
    assert stored.tags["note"].endswith(" …")


def test_a_metric_may_be_nan_or_infinite(registry, client):
    with registry.runs.start(**START) as run:
        run.log_metrics({"train_loss": math.nan, "learning_rate": math.inf}, step=1)
    metrics = client.get_run(run.id).data.metrics
    assert math.isnan(metrics["train_loss"])
    assert metrics["learning_rate"] > 1e300


def test_system_metrics_are_sampled(registry, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    with registry.runs.start(**START) as run:
        deadline = time.monotonic() + 60
        while "system/cpu_utilization_percentage" not in client.get_run(run.id).data.metrics:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize(("error", "status"), [(ValueError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_an_exception_ends_a_run_as_failed_or_killed(registry, client, error, status):
    with pytest.raises(type(error)), registry.runs.start(**START) as run:
        raise error
    assert client.get_run(run.id).info.status == status


def test_a_killed_run_is_resumed_with_its_id(registry, client):
    killed = registry.runs.start(parameters={"seed": 1, "width": 64}, tags={}, dataset=small_dataset())
    killed.log_metrics({"train_loss": 2.0}, step=1)
    with registry.runs.start(
        parameters={"seed": 1, "width": 96}, tags={}, dataset=small_dataset(), run_id=killed.id
    ) as run:
        run.log_metrics({"train_loss": 1.0}, step=2)
    stored = client.get_run(killed.id)
    assert run.id == killed.id
    assert stored.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run.id, "train_loss")] == [1, 2]
    assert stored.data.params["width"] == "64"
    assert stored.data.tags["parameter.width"] == "96"
    assert len(stored.inputs.dataset_inputs) == 1


@pytest.mark.parametrize("run_id", ["0" * 32, "no run id at all"])
def test_a_run_id_of_another_store_starts_a_new_run(registry, run_id):
    with registry.runs.start(**START, run_id=run_id) as run:
        assert run.id != run_id


def test_figures_and_texts_are_read_back(registry):
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    with registry.runs.start(**START) as run:
        run.log_figure(figure, "evaluation/curve.png")
        run.log_text('{"größe": 1}', "gate/verdict.json")
        run.log_text('{"größe": 2}', "gate/verdict.json")
        run.log_text("top", "top.txt")
    picture = registry.runs.read_artifact(run.id, "evaluation/curve.png")
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert registry.runs.read_artifact(run.id, "gate/verdict.json") == '{"größe": 2}'.encode()
    assert registry.runs.read_artifact(run.id, "top.txt") == b"top"
    assert registry.runs.read_artifact(run.id, "gate/other.json") is None
    assert registry.runs.read_artifact(run.id, "no/such/folder.json") is None
    assert registry.runs.read_artifact(run.id, "gate") is None


def test_records_added_after_the_training_leave_its_status(registry, client):
    with registry.runs.start(**START) as run:
        pass
    with registry.runs.resume(run.id) as resumed:
        resumed.log_metrics({"test_accuracy": 0.9})
    with pytest.raises(ValueError, match="in the evaluation"), registry.runs.resume(run.id):
        raise ValueError("in the evaluation")
    assert client.get_run(run.id).info.status == "FINISHED"


@pytest.mark.parametrize(("method", "path"), [("resume", ()), ("read_artifact", ("a.json",))])
def test_a_missing_run_is_an_error(registry, method, path):
    with pytest.raises(RegistryError, match=r"has no run 0{32}: use the --tracking-uri"):
        getattr(registry.runs, method)("0" * 32, *path)


def test_a_deleted_experiment_is_an_error(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.delete_experiment(client.create_experiment("colors"))
    with pytest.raises(RegistryError, match="experiment colors was deleted"):
        registry_at(tmp_path).runs.start(**START)


def test_a_nested_run_is_listed_until_it_ends(registry, client):
    with registry.runs.start(**START, name="a search") as parent:
        children = [registry.runs.start(**START, name=f"trial {number}", parent=parent.id) for number in (1, 2)]
        children[0].set_tags({"state": "pruned", "reason": "x" * 20_000})
        children[0].end("KILLED")
        found = registry.runs.running_children(parent.id)
        assert [(run.id, tags["mlflow.runName"]) for run, tags in found] == [(children[1].id, "trial 2")]
        children[1].end("FINISHED")
        assert registry.runs.running_children(parent.id) == []
    stored = client.get_run(children[0].id)
    assert stored.info.status == "KILLED"
    assert stored.data.tags["mlflow.parentRunId"] == parent.id
    assert stored.data.tags["state"] == "pruned"
    assert len(stored.data.tags["reason"]) < 20_000
