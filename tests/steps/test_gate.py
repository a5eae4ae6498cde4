"""The step `gate` on versions in a registry, with packages of known behavior in place of trained ones."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from image_classifier.datasets.dataset import Dataset
from image_classifier.errors import RegistryError
from image_classifier.package.model import Model
from image_classifier.package.package import write_package
from image_classifier.registry import artifact_paths
from image_classifier.settings import Settings
from image_classifier.steps.data import data
from image_classifier.steps.evaluate import evaluate
from image_classifier.steps.gate import gate
from image_classifier.steps.model_access import open_registry
from image_classifier.steps.promote import promote
from image_classifier.steps.register import register
from tests.conftest import SIZE, color_model
from tests.steps.chain import COLORS, Lines, copy_home, write_images

pytestmark = pytest.mark.slow

SKEWED = COLORS | {"red": (0, 255, 255)}
"""A model of these misclassifies red images."""


def write_model(folder: Path, colors, size: int, dataset: Dataset, provenance) -> None:
    def write(probabilities):
        return write_package(
            folder,
            model=color_model(size, colors, sharpness=60),
            classes=list(colors),
            image_size=size,
            provenance={
                "data_digest": dataset.digest,
                "parameters": {"seed": 0, "validation_fraction": 0.2},
                **provenance,
            },
            golden=(images[: len(probabilities)], labels[: len(probabilities)], probabilities),
            reference={},
        )

    images = np.asarray(dataset.test.images[:4])
    labels = [dataset.classes[label] for label in dataset.test.labels[:4]]
    without_golden = Model.load(write(np.empty((0, len(colors)), np.float32)), threads=1)
    write(without_golden.probabilities(images))


def drifted(shift):
    """Colors with which a model takes some of the red images for white ones."""
    return COLORS | {"red": (200 - shift, 60 + shift // 2, 60 + shift)}


class Workshop:
    """A home in which packages are written instead of trained, and go through the chain from there."""

    def __init__(self, settings: Settings, count: int) -> None:
        self.settings, self.count = settings, count
        self.registry = open_registry(settings, Lines())

    def use_data(self, folder: Path) -> None:
        self.settings = replace(self.settings, data=str(folder))

    def make(self, colors=COLORS, size=SIZE) -> Lines:
        """Write, evaluate, register and judge a package of the color model, and promote it if it is accepted."""
        self.write(colors, size)
        lines = Lines()
        for step in (evaluate, register, gate, promote):
            step(self.settings, lines)
        return lines

    def write(self, colors=COLORS, size=SIZE, **provenance) -> None:
        """Write a package of the color model into the work folder, as `train` does."""
        self.count += 1
        dataset = data(replace(self.settings, image_size=size), Lines())
        tags = {"fingerprint": f"made{self.count}", "source_revision": "abc"}
        with self.registry.runs.start(parameters={}, tags=tags, dataset=dataset) as run:
            pass
        folder = self.settings.home / "work/package"
        write_model(folder, colors, size, dataset, {**tags, "run_id": run.id, **provenance})

    def report(self) -> str:
        return (self.settings.home / "work/report.html").read_text()

    def lose_files(self, number: int) -> None:
        """Delete the files of a version in the registry and in the home folder."""
        (folder,) = (self.settings.home / "artifacts").rglob(self.registry.versions.get(str(number)).model_id)
        shutil.rmtree(folder)
        shutil.rmtree(self.settings.home / "models")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, empty_database) -> Settings:
    """Settings of a home whose champion is version 1."""
    folder = tmp_path_factory.mktemp("workshop")
    home = folder / "home"
    home.mkdir()
    shutil.copy(empty_database, home / "mlflow.db")
    images = write_images(folder / "images")
    settings = Settings(home=home, data=str(images), name="colors", image_size=SIZE)
    assert "version 1 is the champion" in Workshop(settings, 0).make().text
    return settings


@pytest.fixture
def workshop(prepared, tmp_path) -> Workshop:
    return Workshop(copy_home(prepared, tmp_path / "home"), 1)


def test_the_report_is_in_the_work_folder_and_in_the_run(workshop):
    page = workshop.report()
    assert "colors version 1: accepted" in page
    assert "there is no champion to compare with" in page
    run = workshop.registry.versions.get("1").run_id
    assert workshop.registry.runs.read_artifact(run, artifact_paths.REPORT).decode() == page


def test_an_equal_model_is_compared_and_accepted(workshop):
    lines = workshop.make()
    assert "0 of 160 test images newly wrong" in lines.text
    assert "measured alternately" in lines.text
    assert "version 2 is the champion" in lines.text
    assert "version 1 is the champion" in workshop.report()  # when version 2 was judged


def test_a_model_with_a_poor_class_is_refused_and_the_report_names_it(workshop):
    lines = workshop.make(SKEWED)
    reason = "dropped significantly by more than 5 points"
    assert "FAIL  max-recall-drop" in lines.text
    assert "version 2 is refused" in lines.text
    assert "version 2 was refused and is not promoted; version 1 stays" in lines.text
    assert f"recall of class &#39;red&#39; {reason}" in workshop.report()
    assert workshop.registry.versions.champion().number == 1
    events = workshop.registry.history.events()
    assert (events[0].action, events[0].version) == ("refused", 2)
    assert f"recall of class 'red' {reason}" in events[0].reason
    # The same verdict again adds no event.
    gate(replace(workshop.settings, model="2"), Lines())
    assert workshop.registry.history.events() == events


def test_a_model_that_may_be_worse_is_held_and_the_champion_stays(workshop, tmp_path):
    (results := tmp_path / "results").mkdir()
    workshop.settings = replace(workshop.settings, results=str(results))
    lines = workshop.make(drifted(80))
    assert "HOLD  not-worse-than-champion" in lines.text
    assert "version 2 is held" in lines.text
    assert workshop.registry.versions.champion().number == 1
    assert (results / "verdict").read_text() == "held"
    assert (results / "model-version").read_text() == "1"
    assert "Not enough evidence to replace version 1, which stays" in workshop.report()


def test_small_losses_do_not_add_up_as_the_best_version_so_far_is_compared_too(workshop):
    workshop.settings = replace(
        workshop.settings,
        max_accuracy_drop=0.035,
        max_recall_drop=1.0,
        max_robustness_drop=1.0,
        max_calibration_error=1.0,
    )
    assert "version 2 is the champion" in workshop.make(drifted(90)).text
    lines = workshop.make(drifted(110))
    assert "pass  not-worse-than-champion" in lines.text
    assert "best-version: version 1, the best version so far, is compared on the same test images" in lines.text
    assert "pass  not-worse-than-best" not in lines.text
    assert workshop.registry.versions.champion().number == 2


def test_a_version_that_was_replaced_is_judged_against_the_present_champion(workshop):
    """As when the command that made it is repeated, or a commit is reverted."""
    worse = replace(workshop.settings, max_accuracy_drop=0.035, max_recall_drop=1.0, max_robustness_drop=1.0)
    workshop.settings = replace(worse, max_calibration_error=1.0)
    workshop.make(drifted(80))
    workshop.make()
    assert workshop.registry.versions.champion().number == 3
    lines = Lines()
    gate(replace(workshop.settings, model="2", max_accuracy_drop=0.005), lines)
    assert "champion: version 3, the champion, is compared" in lines.text
    assert "version 2 is held" in lines.text


def test_test_images_that_the_champion_was_trained_on_do_not_count(workshop):
    """The test part had grown since: ten of its images were the champion's training images."""
    dataset = data(workshop.settings, Lines())
    hashes = dataset.test.hashes[:10].tolist()
    with workshop.registry.runs.resume(workshop.registry.versions.get("1").run_id) as run:
        run.log_text("".join(f"{value:016x}\n" for value in hashes), artifact_paths.TRAINING_IMAGES)
    lines = workshop.make()
    assert "version 1, the champion, is compared on the same test images, without 10 images that it was trained on" in (
        lines.text
    )
    assert "0 of 150 test images newly wrong" in lines.text


def test_with_new_data_the_champion_is_evaluated_on_it(workshop, tmp_path):
    workshop.use_data(write_images(tmp_path / "images", seed=1))
    lines = workshop.make()
    assert "evaluating version 1, the champion, on the candidate's test images" in lines.text
    assert "0 of 160 test images newly wrong" in lines.text
    assert "not-worse-than-champion" in lines.text
    assert "no accuracy under corruption dropped significantly" in lines.text


def test_a_champion_without_files_is_compared_by_its_recorded_evaluation(workshop):
    workshop.lose_files(1)
    lines = workshop.make()
    assert "warning: cannot run version 1, the champion: cannot fetch models:/colors/1" in lines.text
    assert "0 of 160 test images newly wrong" in lines.text
    assert "measured at different times on machines of the same kind" in lines.text
    assert "version 2 is the champion" in lines.text
    assert "parameters and sources are unknown, as its files are missing" in workshop.report()


def test_a_champion_without_files_cannot_be_compared_on_new_data(workshop, tmp_path):
    workshop.lose_files(1)
    workshop.use_data(write_images(tmp_path / "images", seed=1))
    lines = workshop.make()
    expected = (
        "–  champion: version 1, the champion, was evaluated on other data, and its files are missing in the registry, "
        "so only the absolute checks apply: not measured"
    )
    assert expected in lines.text
    assert "version 2 is the champion" in lines.text


def test_a_champion_with_damaged_files_is_like_one_without(workshop):
    (model,) = (workshop.settings.home / "artifacts").rglob("model.onnx")
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    shutil.rmtree(workshop.settings.home / "models", ignore_errors=True)
    lines = workshop.make()
    assert "cannot run version 1, the champion: cannot fetch models:/colors/1: its files" in lines.text
    assert "are damaged" in lines.text
    assert "version 2 is the champion" in lines.text


def test_a_champion_whose_run_was_deleted_is_evaluated_again(workshop):
    uri = f"sqlite:///{workshop.settings.home / 'mlflow.db'}"
    MlflowClient(uri, uri).delete_run(workshop.registry.versions.get("1").run_id)
    lines = workshop.make()
    assert "evaluating version 1, the champion, on the candidate's test images" in lines.text
    assert "version 2 is the champion" in lines.text


def test_a_champion_with_other_classes_is_not_compared(workshop, tmp_path):
    fewer = {name: color for name, color in COLORS.items() if name != "white"}
    workshop.use_data(write_images(tmp_path / "fewer", fewer))
    lines = workshop.make(fewer)
    assert "version 1, the champion, has other classes (blue, green, red, white) than the" in lines.text
    assert "candidate (blue, green, red), so only the absolute checks apply" in lines.text
    assert "version 2 is the champion" in lines.text


def test_a_champion_with_another_image_size_is_compared_on_the_same_images(workshop):
    lines = workshop.make(size=2 * SIZE)
    assert "of 160 test images newly wrong" in lines.text
    assert "measured alternately" in lines.text
    assert "version 2 is the champion" in lines.text


def test_an_unreadable_registry_is_not_a_lost_champion(workshop, monkeypatch):
    """Otherwise a temporary failure would admit a candidate by the absolute checks alone."""

    def refuse(*_):
        raise OSError("disk quarantined")

    workshop.make()
    shutil.rmtree(workshop.settings.home / "models/colors/2")
    monkeypatch.setattr("image_classifier.registry.store.Store.fetch_model", refuse)
    with pytest.raises(RegistryError, match="cannot fetch models:/colors/2: disk quarantined"):
        gate(replace(workshop.settings, model="1"), Lines())


def test_shuffled_labels_are_refused(workshop, tmp_path):
    random = np.random.default_rng(0)
    images = write_images(tmp_path / "shuffled", seed=2)
    files = sorted(images.rglob("*.png"))
    for file, folder in zip(files, random.permutation([str(file.parent) for file in files]), strict=True):
        file.rename(Path(folder) / f"{file.parent.name}-{file.name}")
    workshop.use_data(images)
    lines = workshop.make()
    assert "FAIL  better-than-guessing" in lines.text
    assert "version 1 stays" in lines.text


def test_results_are_files_for_the_next_step(workshop, tmp_path):
    (results := tmp_path / "results").mkdir()
    gate(replace(workshop.settings, model="champion", results=str(results)), Lines())
    assert (results / "verdict").read_text() == "accepted"
    assert (results / "model-uri").read_text() == "models:/colors/1"
    assert (results / "model-version").read_text() == "1"
