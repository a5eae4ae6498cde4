"""Versions judged from a registry, with real packages of which it is known what they answer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier.datasets.dataset import Dataset
from image_classifier.errors import RegistryError
from image_classifier.package.package import Model, write_package
from image_classifier.registry import artifact_paths as artifacts
from image_classifier.settings import Settings
from image_classifier.steps import chain_tmp as chain
from tests.conftest import SIZE, colour_model
from tests.steps.test_chain import Lines

COLOURS = {"blue": (60, 60, 200), "green": (60, 200, 60), "red": (200, 60, 60), "white": (200, 200, 200)}
SKEWED = COLOURS | {"red": (0, 255, 255)}
"""A model of these takes red images for another colour."""


def write_images(folder: Path, colours=COLOURS, count=40, seed=0) -> Path:
    """Noisy images, of which half are to be tested."""
    random = np.random.default_rng(seed)
    for part in ("train", "test"):
        for name, colour in colours.items():
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                shade = np.array(colour) + random.normal(0, 25, 3)
                pixels = np.clip(shade + random.normal(0, 10, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{seed}-{number}.png")
    return folder


class Workshop:
    """A home in which packages are made in place of training, and go the way of the chain from there."""

    def __init__(self, home: Path, data: Path) -> None:
        self.settings = Settings(home=home, data=str(data), name="colours", image_size=SIZE)
        self.registry = chain.open_registry(self.settings, Lines())
        self.made = 0

    def with_data(self, data: Path) -> None:
        self.settings = replace(self.settings, data=str(data))

    def make(self, colours=COLOURS, size=SIZE) -> Lines:
        """A package of the colour model, evaluated, registered, judged and, if accepted, promoted."""
        self.made += 1
        dataset = chain.data(replace(self.settings, image_size=size), Lines())
        tags = {"fingerprint": f"made{self.made}", "source_revision": "abc"}
        with self.registry.start_run(parameters={}, tags=tags, dataset=dataset) as run:
            pass
        write_model(self.settings.home / "work/package", colours, size, dataset, {**tags, "run_id": run.id})
        lines = Lines()
        for step in (chain.evaluate, chain.register, chain.gate, chain.promote):
            step(self.settings, lines)
        return lines

    def report(self) -> str:
        return (self.settings.home / "work/report.html").read_text()

    def lose_files(self, number: int) -> None:
        """The files of a version are gone from the registry and from this machine."""
        (folder,) = (self.settings.home / "artifacts").rglob(self.registry.get(str(number)).model_id)
        shutil.rmtree(folder)
        shutil.rmtree(self.settings.home / "models")


def write_model(folder: Path, colours, size: int, dataset: Dataset, provenance) -> None:
    def write(probabilities):
        return write_package(
            folder,
            model=colour_model(size, colours),
            classes=list(colours),
            image_size=size,
            provenance={
                **provenance,
                "data_digest": dataset.digest,
                "parameters": {"seed": 0, "validation_fraction": 0.2},
            },
            golden=(images[: len(probabilities)], labels[: len(probabilities)], probabilities),
            reference={},
        )

    images = np.asarray(dataset.test.images[:4])
    labels = [dataset.classes[label] for label in dataset.test.labels[:4]]
    unrecorded = Model.load(write(np.empty((0, len(colours)), np.float32)), threads=1)
    write(unrecorded.probabilities(images))


@pytest.fixture
def workshop(tmp_path, empty_database):
    """One in which version 1 is the champion."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_database, home / "mlflow.db")
    workshop = Workshop(home, write_images(tmp_path / "images"))
    assert "version 1 is the champion" in workshop.make().text
    return workshop


def test_a_report_is_written_to_the_work_folder_and_the_run(workshop):
    page = workshop.report()
    assert "colours version 1: accepted" in page
    assert "there is no champion to compare with" in page
    run = workshop.registry.get("1").run_id
    assert workshop.registry.read_artifact(run, artifacts.REPORT).decode() == page


def test_an_equal_model_is_compared_and_accepted(workshop):
    lines = workshop.make()
    assert "loses 0 that the champion gets right" in lines.text
    assert "timed in turn" in lines.text
    assert "version 2 is the champion" in lines.text
    assert "version 1 is the champion" in workshop.report()  # when it was judged


def test_a_model_that_forgot_a_class_is_refused_and_the_report_says_which(workshop):
    lines = workshop.make(SKEWED)
    assert "FAIL  max-recall-drop" in lines.text
    assert "version 1 stays" in lines.text
    assert "&#39;red&#39; is surely recognised worse than by the champion" in workshop.report()


def test_when_the_data_changed_the_champion_answers_the_new_images(workshop, tmp_path):
    workshop.with_data(write_images(tmp_path / "images", seed=1))
    lines = workshop.make()
    assert "version 1, the champion, is evaluated on the candidate's test images" in lines.text
    assert "of 320 test images it loses 0" in lines.text
    assert "not-worse-than-champion" in lines.text
    assert "no corruption is surely answered worse" in lines.text


def test_a_champion_without_files_is_compared_by_what_is_recorded(workshop):
    workshop.lose_files(1)
    lines = workshop.make()
    assert (
        "warning: version 1, the champion, cannot be asked: models:/colours/1 cannot be fetched" in lines.text
    )
    assert "of 160 test images it loses 0" in lines.text
    assert "timed at different times on machines of the same kind" in lines.text
    assert "version 2 is the champion" in lines.text
    assert "its files are gone" in workshop.report()


def test_a_champion_without_files_cannot_be_asked_new_images(workshop, tmp_path):
    workshop.lose_files(1)
    workshop.with_data(write_images(tmp_path / "images", seed=1))
    lines = workshop.make()
    told = (
        "?  champion: version 1, the champion, was evaluated on other data, and its files are gone from the "
        "registry: the floors alone decide, not enough evidence"
    )
    assert told in lines.text
    assert "version 2 is the champion" in lines.text


def test_a_champion_whose_files_are_damaged_is_as_one_without(workshop):
    (model,) = (workshop.settings.home / "artifacts").rglob("model.onnx")
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    shutil.rmtree(workshop.settings.home / "models")
    lines = workshop.make()
    assert (
        "cannot be asked: models:/colours/1 cannot be fetched: its files in the registry are damaged"
        in lines.text
    )
    assert "version 2 is the champion" in lines.text


def test_a_champion_whose_run_was_deleted_is_evaluated_again(workshop):
    from mlflow import MlflowClient

    uri = f"sqlite:///{workshop.settings.home / 'mlflow.db'}"
    MlflowClient(uri, uri).delete_run(workshop.registry.get("1").run_id)
    lines = workshop.make()
    assert "version 1, the champion, is evaluated on the candidate's test images" in lines.text
    assert "version 2 is the champion" in lines.text


def test_a_champion_of_other_classes_is_not_compared_with(workshop, tmp_path):
    fewer = {name: colour for name, colour in COLOURS.items() if name != "white"}
    workshop.with_data(write_images(tmp_path / "fewer", fewer))
    lines = workshop.make(fewer)
    assert "version 1, the champion, knows other classes (blue, green, red, white) than the" in lines.text
    assert "candidate (blue, green, red): the floors alone decide" in lines.text
    assert "version 2 is the champion" in lines.text


def test_a_champion_of_another_image_size_is_compared_on_the_same_images(workshop):
    lines = workshop.make(size=2 * SIZE)
    assert "of 160 test images it loses" in lines.text
    assert "timed in turn" in lines.text
    assert "version 2 is the champion" in lines.text


def test_a_registry_that_does_not_answer_is_no_lost_champion(workshop, monkeypatch):
    """What cannot be read today must not let a candidate in on the floors alone."""

    def refuse(*_):
        raise OSError("disk quarantined")

    workshop.make()
    shutil.rmtree(workshop.settings.home / "models/colours/2")
    monkeypatch.setattr("image_classifier.registry.store.Store.fetch_model", refuse)
    with pytest.raises(RegistryError, match="colours/2 cannot be fetched: disk quarantined"):
        chain.gate(replace(workshop.settings, model="1"), Lines())


def test_an_evaluation_with_other_wishes_is_made_again(workshop):
    run = workshop.registry.get("1").run_id
    chain.evaluate(replace(workshop.settings, abstain_error=0.1), Lines())
    stored = json.loads(workshop.registry.read_artifact(run, artifacts.EVALUATION))
    assert stored["abstention"]["error"] == 0.1


def test_shuffled_labels_are_refused(workshop, tmp_path):
    random = np.random.default_rng(0)
    images = write_images(tmp_path / "shuffled", seed=2)
    files = sorted(images.rglob("*.png"))
    for file, folder in zip(files, random.permutation([str(file.parent) for file in files]), strict=True):
        file.rename(Path(folder) / f"{file.parent.name}-{file.name}")
    workshop.with_data(images)
    lines = workshop.make()
    assert "FAIL  better-than-guessing" in lines.text
    assert "version 1 stays" in lines.text
