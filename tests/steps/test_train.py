import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from mlflow import MlflowClient

from image_classifier.errors import RegistryError
from image_classifier.settings import Seconds, Settings
from image_classifier.steps.model_access import open_registry
from image_classifier.steps.train import train
from tests.steps.chain import Lines, run_chain


def run_count(settings: Settings) -> int:
    client = MlflowClient(f"sqlite:///{settings.home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(settings.name)
    return len(client.search_runs([experiment.experiment_id]))


@pytest.mark.slow
def test_the_same_code_data_and_parameters_are_not_trained_again(champion):
    shutil.rmtree(champion.home / "work")
    runs = run_count(champion)
    lines = run_chain(champion)
    assert "already trained: version 1" in lines.text
    assert "registered as models:/image-classifier/1" in lines.text
    assert run_count(champion) == runs
    registry = open_registry(champion, Lines())
    assert [event.version for event in registry.history.events()] == [1]


def test_an_unavailable_registry_is_reported_before_any_work(tmp_path):
    settings = replace(Settings(), home=tmp_path, tracking_uri="http://127.0.0.1:9", registry_timeout=Seconds(5))
    with pytest.raises(RegistryError, match="does not answer"):
        train(settings, Lines())
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_killed_training_resumes_in_the_same_run(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    settings = replace(Settings(), home=tmp_path, budget=Seconds(4.0))
    command = [sys.executable, "-m", "image_classifier.cli", "train"]
    process = subprocess.Popen([*command, "--home", str(tmp_path), "--budget", "4s"])
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("work/checkpoint/*/state.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (started,) = tmp_path.glob("work/checkpoint/*/run_id")
    package = train(settings, Lines())
    assert package.provenance["run_id"] == started.read_text()
    assert run_count(settings) == 1
