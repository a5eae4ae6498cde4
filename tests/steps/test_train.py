import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from image_classifier.backbones import SHIPPED
from image_classifier.errors import RegistryError
from image_classifier.package import Package
from image_classifier.registry import artifact_paths, checkpoints
from image_classifier.settings import Bytes, Recipe, Seconds, Settings, as_environment
from image_classifier.steps.model_access import open_registry
from image_classifier.steps.train import train
from image_classifier.training.transfer import choice
from tests.steps.chain import Lines, run_chain, write_photos
from tests.training.samples import stripes


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
    assert f"registered as models:/{champion.name}/1" in lines.text
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
    (started,) = (file.read_text() for file in tmp_path.glob("work/checkpoint/*/run_id"))
    package = train(settings, Lines())
    assert package.provenance["run_id"] == started
    assert run_count(settings) == 1


@pytest.mark.slow
def test_the_validation_accuracy_is_one_number_in_the_registry_the_package_and_the_output(empty_database, tmp_path):
    """Noise cannot be learned, so the last epoch is hardly the best one."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    random = np.random.default_rng(0)
    for number in range(200):
        (tmp_path / "noise" / f"c{number % 4}").mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "noise" / f"c{number % 4}" / f"{number}.png")
    settings = replace(
        Settings(), home=tmp_path, name="noise", data=str(tmp_path / "noise"), budget=Seconds(1.0), precision="int8"
    )
    lines = Lines()
    package = train(settings, lines)
    accuracy = package.provenance["validation_accuracy"]
    run = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(package.provenance["run_id"])
    assert run.data.metrics["final_validation_accuracy"] == accuracy
    assert package.provenance["precision"]["int8"]["validation_accuracy"] == accuracy
    assert f"validation accuracy {100 * accuracy:.2f} %" in lines.text
    temperature = package.provenance["precision"]["int8"]["temperature"]
    assert float(run.data.params["temperature"]) == package.provenance["parameters"]["temperature"] == temperature
    assert run.data.params["mirror"] == package.provenance["parameters"]["mirror"] in ("yes", "no")
    assert run.info.status == "FINISHED"
    assert list(tmp_path.glob("work/checkpoint/*")) == []


@pytest.mark.slow
def test_a_training_survives_a_server_that_stops_answering(tracking_server, tmp_path):
    settings = replace(
        Settings(),
        home=tmp_path,
        name="stops-answering",
        tracking_uri=tracking_server.address,
        registry_timeout=Seconds(1.0),
        precision="float32",
        budget=Seconds(6.0),
    )
    is_over = threading.Event()

    def stop_server() -> None:
        while not is_over.wait(0.02):
            if list(tmp_path.glob("work/checkpoint/*/state.safetensors")):
                tracking_server.send(signal.SIGSTOP)
                return

    stopping = threading.Thread(target=stop_server)
    stopping.start()
    lines = Lines()
    try:
        with pytest.raises(RegistryError, match="did not answer in time"):
            train(settings, lines)
    finally:
        is_over.set()
        stopping.join()
        tracking_server.send(signal.SIGCONT)
    assert "the training continues and records its metrics at the end" in lines.text
    trained = Package.read(tmp_path / "work" / "package")
    package = train(replace(settings, registry_timeout=Seconds(30.0)), lines)
    # A second training would have had another number of steps and another run.
    for name in ("run_id", "parameters", "validation_accuracy"):
        assert package.provenance[name] == trained.provenance[name]
    client = MlflowClient(tracking_server.address)
    run = client.get_run(package.provenance["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["final_validation_accuracy"] == package.provenance["validation_accuracy"]
    points = client.get_metric_history(run.info.run_id, "train_loss")
    assert sorted(point.step for point in points) == list(range(1, len(points) + 1))


@pytest.mark.slow
def test_a_training_whose_pod_was_lost_resumes_from_the_checkpoint_in_mlflow(tracking_server, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_LIVE_SECONDS", 0.5)
    settings = replace(
        Settings(),
        home=tmp_path,
        name="lost-pod",
        tracking_uri=tracking_server.address,
        budget=Seconds(6.0),
        precision="float32",
    )
    code = """
import os
from image_classifier.registry import checkpoints
from image_classifier.settings import load_settings
from image_classifier.steps.train import train
checkpoints._MIN_INTERVAL_SECONDS = 0.0
train(load_settings({}, os.environ), print)
"""
    environment = as_environment(settings, ("home", "name", "tracking_uri", "budget", "precision"))
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **environment})
    client = MlflowClient(tracking_server.address)
    deadline = time.monotonic() + 100
    runs = []
    while not runs or not client.list_artifacts(runs[0].info.run_id, "checkpoint"):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
        if experiment := client.get_experiment_by_name("lost-pod"):
            runs = client.search_runs([experiment.experiment_id])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(tmp_path / "work")
    lines = Lines()
    package = train(settings, lines)
    (run,) = client.search_runs([runs[0].info.experiment_id])
    assert f"resuming the interrupted training of run {run.info.run_id} from its checkpoint in MLflow" in lines.text
    assert package.provenance["run_id"] == run.info.run_id
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in points].count(1) == 1  # not trained again
    assert {point.step for point in points} == set(range(1, max(point.step for point in points) + 1))
    assert client.list_artifacts(run.info.run_id, "checkpoint") == []


@pytest.mark.slow
def test_a_model_of_photos_is_built_on_a_backbone_and_says_so(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    settings = Settings(
        home=tmp_path,
        data=str(write_photos(tmp_path / "photos", 20)),
        image_size=96,
        min_recall=0.0,
        max_calibration_error=1.0,
    )
    lines = run_chain(settings)
    assert re.search(r"backbone efficientnet-lite[02], pretrained on ImageNet-1k, at 96×96 pixels", lines.text)
    package = Package.read(tmp_path / "work/package")
    backbone = package.provenance["backbone"]
    assert backbone["license"] == "Apache-2.0"
    assert package.provenance["parameters"]["backbone"] == backbone["name"]
    assert package.provenance["validation_accuracy"] == 1.0
    assert backbone == SHIPPED[backbone["name"]].provenance
    assert f"Backbone: {backbone['name']}" in (tmp_path / "work/report.html").read_text()
    assert not list(tmp_path.glob("work/checkpoint/*"))
    bom = json.loads(next(tmp_path.rglob(artifact_paths.BILL_OF_MATERIALS)).read_text())
    (component,) = (each for each in bom["components"] if each.get("bom-ref") == "backbone")
    assert component["hashes"] == [{"alg": "SHA-256", "content": backbone["digest"]}]
    assert component["licenses"] == [{"license": {"id": "Apache-2.0"}}]


@pytest.mark.slow
def test_the_size_of_the_photos_follows_the_choice_of_the_backbone(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    data = str(write_photos(tmp_path / "photos", 10))
    lines = Lines()
    limited = Settings(home=tmp_path, data=data, max_model_size=Bytes(1000), budget=Seconds(1.0))
    assert train(limited, lines).image_size == 64
    assert "224×224 pixels" in lines.text
    assert "64×64 pixels" in lines.text
    named = replace(limited, backbone="efficientnet-lite2", recipe=Recipe(width=1.0), budget=Seconds(30.0))
    assert train(named, lines).image_size == 260
    assert "warning: of the recipe, width has no effect, because it is for a network that is trained" in lines.text


def test_for_images_unlike_photos_the_better_of_backbone_and_network_from_scratch_is_kept(
    empty_database, tmp_path, monkeypatch
):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setattr(choice, "_MIN_TRIAL_BUDGET", 0.0)  # seconds; a short training is enough for such a drawing
    drawings = stripes(96, images=160, classes=2)
    for number, (image, label) in enumerate(zip(drawings.train.images, drawings.train.labels, strict=True)):
        folder = tmp_path / "drawings" / drawings.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((128, 128)).save(folder / f"{number}.png")
    settings = Settings(
        home=tmp_path, data=str(tmp_path / "drawings"), budget=Seconds(10.0), training_processes=2, mirror="no"
    )
    lines = Lines()
    package = train(settings, lines)
    assert "the images are unlike photos: a network from scratch is trained, too, each for half the budget" in lines
    chosen = re.search(
        r"^(\S+) was chosen on the validation images: efficientnet-lite0 [\d.]+ %, none [\d.]+ %", lines.text, re.M
    )
    parameters = package.provenance["parameters"]
    assert parameters["backbone"] == chosen[1]
    assert parameters["image_size"] == package.image_size == (64 if chosen[1] == "none" else 224)
    recorded = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(package.provenance["run_id"]).data
    assert recorded.params["backbone"] == chosen[1]
    assert recorded.metrics["training_seconds"] > 7
    assert not (tmp_path / "work/checkpoints").exists() or not list(
        (tmp_path / "work/checkpoints").rglob("*.safetensors")
    )
