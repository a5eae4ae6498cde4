"""Checkpoints on a real MLflow server."""

import itertools
import threading
import time

import pytest

from image_classifier.registry import checkpoints
from image_classifier.registry.checkpoints import CheckpointUploads
from tests.registry.mlflow_helpers import registry_at, small_dataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(tracking_server, tmp_path_factory):
    return registry_at(tmp_path_factory.mktemp("home"), tracking_server.address, name="checkpoints")


@pytest.fixture
def file(tmp_path):
    """The checkpoint of a training, as it writes it locally."""
    file = tmp_path / "state.safetensors"
    file.write_bytes(b"state")
    return file


@pytest.fixture
def lines():
    return []


def start_run(registry, fingerprint):
    """A run as a killed training leaves it."""
    return registry.runs.start(parameters={}, tags={"fingerprint": fingerprint}, dataset=small_dataset())


def uploads_of(registry, run, file, lines, seconds=100.0):
    """Uploads with a clock that advances by `seconds` each time it is read."""
    clock = itertools.count(0, seconds).__next__
    return CheckpointUploads(registry.checkpoints._store, run.id, file, lines.append, clock)


def stored(registry, run):
    return registry.runs.read_artifact(run.id, "checkpoint/state.safetensors")


def test_the_checkpoint_of_a_killed_training_is_found_by_its_fingerprint(registry, file, lines, monkeypatch):
    monkeypatch.setattr(checkpoints, "_LIVE_SECONDS", 0.1)
    run = start_run(registry, "killed")
    assert registry.checkpoints.fetch("killed") is None
    with uploads_of(registry, run, file, lines) as uploads:
        uploads.offer()
    assert registry.checkpoints.fetch("killed") == (run.id, b"state")
    assert registry.checkpoints.fetch("other") is None
    run.end("FAILED")
    assert registry.checkpoints.fetch("killed") == (run.id, b"state")
    run.end("FINISHED")
    assert registry.checkpoints.fetch("killed") is None
    assert lines == []


def test_a_training_that_still_runs_keeps_its_run_and_checkpoint(registry, file, lines, monkeypatch):
    monkeypatch.setattr(checkpoints, "_LIVE_SECONDS", 1.0)
    run = start_run(registry, "live")
    with uploads_of(registry, run, file, lines) as uploads:
        uploads.offer()
    is_over = threading.Event()

    def record_system_metrics() -> None:
        for step in itertools.count():
            if is_over.wait(0.05):
                return
            run.log_metrics({"system/cpu_utilization_percentage": 50.0}, step=step)

    training = threading.Thread(target=record_system_metrics)
    training.start()
    assert registry.checkpoints.fetch("live") is None
    is_over.set()
    training.join()
    assert registry.checkpoints.fetch("live") == (run.id, b"state")


def test_the_checkpoint_is_deleted_at_the_end(registry, file, lines):
    run = start_run(registry, "ended")
    with uploads_of(registry, run, file, lines) as uploads:
        uploads.offer()
        uploads.delete()
    assert stored(registry, run) is None
    with uploads_of(registry, run, file, lines) as uploads:
        uploads.delete()
    assert lines == []


def test_uploads_take_at_most_a_twentieth_of_the_time(registry, file, lines):
    run = start_run(registry, "rhythm")
    with uploads_of(registry, run, file, lines, seconds=10) as uploads:  # the clock is at 0
        for _ in range(2):  # 10 and 20 s
            uploads.offer()
        assert uploads._pending is None
        uploads.offer()  # at 30 s; the upload takes from 40 to 50 s
        uploads._pending.result()
        file.write_bytes(b"later")
        for _ in range(19):  # until 240 s
            uploads.offer()
        assert uploads._pending.done()
        assert stored(registry, run) == b"state"
        uploads.offer()  # at 250 s
        uploads._pending.result()
    assert stored(registry, run) == b"later"


def test_a_server_that_is_away_is_reported_but_does_not_end_the_training(registry, file, lines, tmp_path):
    away = registry_at(tmp_path, "http://127.0.0.1:9", timeout=1)
    run = start_run(registry, "away")
    with uploads_of(away, run, file, lines) as uploads:
        uploads.offer()
        uploads.delete()
    assert ["the checkpoint was not stored, but the training continues: " in line for line in lines] == [True, False]
    assert f"the checkpoint of run {run.id} was not deleted" in lines[1]


def test_a_local_registry_has_no_checkpoints(file, lines, tmp_path):
    local = registry_at(tmp_path)
    with CheckpointUploads(local.checkpoints._store, "run", file, lines.append, time.monotonic) as uploads:
        uploads._next = 0
        uploads.offer()
        uploads.delete()
    assert local.checkpoints.fetch("any") is None
    assert lines == []
    assert not (tmp_path / "mlflow.db").exists()
