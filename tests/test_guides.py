"""Run the commands of the guides in their order, and compare what they print with what the guides show."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier.attestation.attachments import Attestations
from image_classifier.package.package import Package
from tests.attestation.test_attachments import EVALUATION
from tests.guides import blocks, check, marked, missing_program, run
from tests.ports import free_port
from tests.registry.mlflow_helpers import TrackingServer, record_training, registry_at
from tests.serving.server_process import Server, running

pytestmark = pytest.mark.slow

ADDRESS = "127.0.0.1:8080"
PHOTOS, MISLABELED = 180, 7  # images per class, and how many of them are in the folder of the other class


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A reader's folder: images of two classes that few training steps tell apart, some mislabeled, and two more.

    MLflow's tables are already there, as creating them takes seconds.
    """
    folder = tmp_path_factory.mktemp("reader")
    (folder / ".image-classifier").mkdir()
    shutil.copy(empty_database, folder / ".image-classifier")
    random = np.random.default_rng(0)
    pixels = {
        name: random.normal(brightness, 25, (PHOTOS, 8, 8)).clip(0, 255).astype(np.uint8)
        for name, brightness in (("cat", 180), ("dog", 75))
    }
    for name, other in (("cat", "dog"), ("dog", "cat")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(PHOTOS):
            images = pixels[other if number < MISLABELED else name]
            Image.fromarray(images[number]).save(folder / "photos" / name / f"{number}.png")
    Image.fromarray(pixels["cat"][20]).save(folder / "photo.png")
    Image.fromarray(pixels["dog"][20]).save(folder / "other.png")
    return folder


@pytest.fixture(scope="module")
def outputs(folder: Path) -> dict[str, str]:
    """The output of each block of the guide for ML engineers, at whose end version 1 is the champion."""
    return {
        str(block): run(block, folder, {"PORT": str(free_port())})
        for block in blocks("ml-engineer.md")
        if block.mark == "run"
    }


@pytest.fixture(scope="module")
def server(folder: Path, outputs: dict[str, str]) -> Iterator[Server]:
    """A server of the model that the guide for ML engineers trained."""
    package = folder / ".image-classifier" / "models" / "photos" / "1"
    with running(package, folder / "log", "--threads", "1") as started:
        yield started


@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", marked("ml-engineer.md", "run"), ids=str)
def test_the_guide_for_ml_engineers_prints_what_it_shows(outputs, block):
    check(block, outputs[str(block)])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", marked("api-consumer.md", "run"), ids=str)
def test_the_guide_for_api_consumers_prints_what_it_shows(folder, server, block):
    if program := missing_program(block):
        pytest.skip(f"needs {program}")
    check(block, run(block, folder, {}, {ADDRESS: f"127.0.0.1:{server.port}"}))


KUBECTL = """#!/bin/bash
# Instead of a cluster: runs here what `kubectl exec` would run in MLflow's container.
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


@pytest.mark.timeout(300)
def test_a_backup_of_mlflow_can_be_restored(tmp_path, empty_database):
    for name in ("bin", "work", "before", "after"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "kubectl").write_text(KUBECTL, encoding="utf-8")
    (tmp_path / "bin" / "kubectl").chmod(0o755)
    variables = {"PATH": os.pathsep.join((f"{tmp_path / 'bin'}", f"{Path(sys.executable).parent}", os.environ["PATH"]))}

    def follow(why: str, volume: str) -> None:
        places = {"/data": str(tmp_path / volume), "/tmp/mlflow.db": str(tmp_path / "copy.db")}
        for block in marked("platform-operator.md", "run"):
            if block.why == why:
                run(block, tmp_path / "work", variables, places)

    before, after = (TrackingServer(tmp_path / name, empty_database) for name in ("before", "after"))
    try:
        registry = registry_at(tmp_path / "home", before.address)
        version = record_training(registry, tmp_path / "package", "fingerprint")()
        follow("mlflow", "before")
        assert registry_at(tmp_path / "home", after.address).versions.find("fingerprint") is None
        follow("mlflow restore", "after")
        after.kill()
        restored = registry_at(tmp_path / "home", after.address)
        assert restored.versions.find("fingerprint") == version
        restored.versions.download(version, tmp_path / "fetched")
        fetched, packed = (tmp_path / name / "model.onnx" for name in ("fetched", "package"))
        assert fetched.read_bytes() == packed.read_bytes()
    finally:
        before.kill()
        after.kill()


@pytest.mark.timeout(300)
def test_a_model_signed_with_the_keys_of_the_guide_is_verified_by_its_command(tmp_path, tracking_server):
    def follow(why: str) -> None:
        (block,) = (block for block in marked("platform-operator.md", "run") if block.why == why)
        run(block, tmp_path, {"MLFLOW_TRACKING_URI": tracking_server.address})

    follow("keys")
    attestations = Attestations.create(
        name="photos", actor="somebody", steps_image="", signing_key=str(tmp_path / "key.pem")
    )
    record_training(
        registry_at(tmp_path / "home", tracking_server.address, "photos"),
        tmp_path / "package",
        "fingerprint",
        accompany=lambda folder: attestations.write(folder, Package.read(folder), EVALUATION),
    )()
    follow("model-signing")
