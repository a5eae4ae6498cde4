import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from image_classifier.backbones import SHIPPED
from image_classifier.errors import TrainingError
from image_classifier.package.model import Model
from image_classifier.settings import Recipe
from image_classifier.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from image_classifier.training.export import export_package
from image_classifier.training.learning_curve import ReportPoint
from image_classifier.training.loop import fit
from image_classifier.training.plan import TrainingInputs
from image_classifier.training.trained import Trained
from image_classifier.training.transfer.classifier import BackboneClassifier
from image_classifier.training.transfer.features import FeatureExtractor
from image_classifier.training.transfer.fitting import is_better, prior_correction, proportional_order
from tests.training.samples import clock, plan, stripes, train

ON_BACKBONE = replace(plan(budget=1e-3), backbone=SHIPPED["efficientnet-lite0"])
"""The budget is too short for fine-tuning on any machine."""
FINE_TUNED = replace(ON_BACKBONE, budget=1e4)
"""Long enough on any machine. Time is counted by the clock of the tests."""
pytestmark = pytest.mark.slow


def test_a_classifier_on_a_backbone_is_exported_as_one_graph(tmp_path):
    dataset = stripes(64, images=160)
    trained = train(dataset, ON_BACKBONE, steps=1_000)
    assert isinstance(trained.classifier, BackboneClassifier)
    assert trained.validation_accuracy > 0.9
    assert trained.parameters["images_used"] == 128
    package = export_package(
        tmp_path / "package", trained.classifier, dataset, trained.validation, {}, precision="float32", threads=1
    )
    images, labels = dataset.test.images, dataset.test.labels
    probabilities = Model.load(package, threads=1).probabilities(images)
    np.testing.assert_allclose(probabilities, trained.classifier.probabilities(images), atol=1e-4)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.9


def test_a_fine_tuned_classifier_is_exported_as_one_graph(tmp_path):
    dataset = stripes(32, images=480, classes=24)
    trained = train(dataset, FINE_TUNED, steps=400)
    assert len(trained.history) > 2
    assert trained.parameters["fine_tuned"]
    export_package(tmp_path / "package", trained.classifier, dataset, trained.validation, {}, threads=1)


def test_a_classifier_without_an_error_is_not_fine_tuned():
    trained = train(stripes(64, images=200, classes=2), FINE_TUNED, steps=400)
    assert trained.history[0].validation_accuracy == 1.0
    assert len(trained.history) == 1
    assert not trained.parameters["fine_tuned"]


def test_the_int8_graph_of_a_backbone_predicts_like_the_float32_graph(tmp_path):
    dataset = stripes(64, images=160)
    trained = train(dataset, ON_BACKBONE, steps=1_000)
    package = export_package(
        tmp_path / "package", trained.classifier, dataset, trained.validation, {}, precision="int8", threads=1
    )
    record = package.provenance["precision"]
    assert record["int8"]["bytes"] < record["float32"]["bytes"] / 3
    assert record["int8"]["validation_accuracy"] > record["float32"]["validation_accuracy"] - 0.1


def test_the_same_seed_gives_the_same_classifier():
    dataset = stripes(32, images=100)
    first, second = (train(dataset, ON_BACKBONE, steps=1_000).classifier for _ in range(2))
    images = dataset.test.images
    np.testing.assert_array_equal(first.probabilities(images), second.probabilities(images))


def test_what_the_budget_does_not_allow_is_left_out():
    trained = train(stripes(32, images=400), ON_BACKBONE, steps=12)
    assert 32 <= trained.parameters["images_used"] < 320


def test_time_that_was_spent_on_choices_before_is_part_of_the_budget():
    dataset = stripes(32, images=400)
    late = train(dataset, replace(ON_BACKBONE, spent=0.9 * ON_BACKBONE.budget), steps=100)
    assert late.seconds >= 0.9 * ON_BACKBONE.budget
    assert late.parameters["images_used"] < train(dataset, ON_BACKBONE, steps=100).parameters["images_used"]


def test_a_budget_that_lacks_classes_is_too_short():
    with pytest.raises(TrainingError, match=r"the features of 32 of 160 images, which lack some of the classes"):
        train(stripes(32, images=200, classes=40), ON_BACKBONE, steps=1)


def test_mirror_images_are_used_only_if_they_keep_their_class():
    """Stripes of 45 and 135 degrees are each other's mirror images; those of 0 and 90 are their own."""
    wanted = replace(ON_BACKBONE, mirror="auto")
    leaning = replace(stripes(64, images=200), mirror=True)
    assert train(leaning, wanted, steps=2_000).parameters["mirror"] == "no"
    upright = replace(stripes(64, images=200, classes=2), mirror=True)
    trained = train(upright, replace(wanted, mirror="yes"), steps=2_000)
    assert len(trained.history) == 2


def test_an_interrupted_training_keeps_its_features(tmp_path):
    dataset = stripes(32, images=200)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, ON_BACKBONE, steps=1_000, checkpoint=tmp_path, on_report=interrupt)
    # Time for one batch only, which would lack most of the images.
    resumed = train(dataset, ON_BACKBONE, steps=10, checkpoint=tmp_path)
    assert resumed.parameters["images_used"] == 160
    assert [point.number for point in resumed.history] == [1]


def test_trainings_that_differ_only_in_the_recipe_share_features_but_not_time(tmp_path, monkeypatch):
    dataset, extracted = stripes(32, images=100, classes=20), []

    def count(self, images, *, mirrored=False):
        if images.any():  # others are only timed
            extracted.append(len(images))
        return original(self, images, mirrored=mirrored)

    original = FeatureExtractor.__call__
    monkeypatch.setattr(FeatureExtractor, "__call__", count)

    def train_with(recipe: str, seed: int = 0) -> Trained:
        plan = replace(FINE_TUNED, recipe=Recipe.parse(f"max_stages=1 {recipe}"), seed=seed)
        return fit(dataset, plan, clock=clock(plan.budget / 60), shared_features=tmp_path)

    first = train_with("")
    assert sum(extracted) == 100
    second = train_with("fine_tuning_rate=0.002")
    assert sum(extracted) == 100
    assert second.parameters["images_used"] == 80
    assert second.history[0].validation_loss == first.history[0].validation_loss
    assert second.history[0].seconds == pytest.approx(first.history[0].seconds, abs=5 * FINE_TUNED.budget / 60)
    assert second.history[0].seconds > 5 * FINE_TUNED.budget / 60
    assert train_with("", seed=1).parameters["images_used"] == 80
    assert sum(extracted) == 200


@pytest.mark.parametrize("lost", [False, True], ids=["here", "on another machine"])
def test_an_interrupted_fine_tuning_continues(tmp_path, lost):
    dataset = stripes(32, images=200, classes=40)
    points: list[ReportPoint] = []

    def interrupt(point: ReportPoint) -> None:
        points.append(point)
        if len(points) == 3:  # the first one is that of the classifier of the frozen features
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, FINE_TUNED, steps=150, checkpoint=tmp_path, on_report=interrupt)
    stored = load_checkpoint(tmp_path, TrainingInputs.check(dataset, FINE_TUNED).key)
    assert stored is not None
    assert stored[1]["step"] > 0
    if lost:  # only this file is kept in MLflow
        for file in tmp_path.iterdir():
            if file.name != CHECKPOINT_FILE:
                file.unlink()
    resumed = train(dataset, FINE_TUNED, steps=150, checkpoint=tmp_path)
    assert list(resumed.history[:2]) == points[:2]
    assert [point.number for point in resumed.history] == list(range(1, len(resumed.history) + 1))
    assert resumed.history[2].seconds > 0.9 * points[2].seconds
    assert resumed.parameters["images_used"] == 160


def test_a_fine_tuned_model_must_be_better_by_more_than_chance():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    certain = (4 * np.eye(3)[labels]).astype(np.float32)
    weak, strong = (certain + random.normal(0, noise, certain.shape).astype(np.float32) for noise in (4, 2))
    assert is_better(strong, weak, labels)
    assert not is_better(weak, strong, labels)
    assert not is_better(weak, weak, labels)
    assert not is_better(strong[:1], weak[:1], labels[:1])


def test_two_processes_share_the_images(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text("""
import os
from dataclasses import replace
import numpy as np
from image_classifier.backbones import SHIPPED
from image_classifier.training.distributed import join_group
from image_classifier.training.loop import fit, fit_worker
from tests.training.samples import plan, stripes

data = replace(stripes(32, images=200, classes=2), mirror=True)
with join_group(os.environ) as group:
    shared = replace(plan(budget=60, group=group), backbone=SHIPPED["efficientnet-lite0"], mirror="yes")
    if group.is_first:
        trained = fit(data, shared)
        print(trained.parameters["processes"], trained.parameters["images_used"], trained.validation_accuracy > 0.9)
    else:
        fit_worker(data, shared)
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True, timeout=110
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] == "2"
    assert result.stdout.split()[1] in ("160", "320")
    assert result.stdout.split()[2] == "True"


def test_every_beginning_of_the_order_has_the_proportions_of_the_classes():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    order = proportional_order(np.arange(1000), labels, seed=3)
    assert sorted(order) == list(range(1000))
    for count in (100, 200, 500):
        shares = np.bincount(labels[order[12:][:count]], minlength=3) / count
        np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=3 / count)
    assert not np.array_equal(order, proportional_order(np.arange(1000), labels, seed=4))


def test_a_few_images_of_every_class_come_first():
    labels = np.repeat([0, 1, 2], [3000, 50, 2])
    first = labels[proportional_order(np.arange(3052), labels, seed=0)][:10]
    np.testing.assert_array_equal(np.bincount(first), [4, 4, 2])


def test_a_class_that_is_rare_in_training_is_recognized_after_the_correction():
    """Logits of two classes that are told apart, but biased to the frequent one."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [300, 10])
    margin = np.where(labels == 1, -2.0, -9.0) + random.normal(0, 1, 310)
    logits = np.stack([np.zeros(310), margin], axis=1).astype(np.float32)
    assert (logits.argmax(axis=1)[labels == 1] == 1).mean() < 0.2
    corrected = logits - prior_correction(logits, labels, np.array([3000, 10]))
    assert (corrected.argmax(axis=1)[labels == 1] == 1).mean() > 0.8
    assert (corrected.argmax(axis=1)[labels == 0] == 0).mean() > 0.9


def test_classes_of_similar_sizes_are_not_corrected():
    logits = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    labels = np.repeat([0, 1], 50)
    assert not prior_correction(logits, labels, np.array([190, 10])).any()
