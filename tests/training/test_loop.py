from dataclasses import replace

import numpy as np
import pytest
import torch

from image_classifier.errors import TrainingError
from image_classifier.training.learning_curve import REPORT_POINTS, ReportPoint
from tests.training.samples import plan, stripes, train

pytestmark = pytest.mark.slow


class Unreadable:
    """A part of a data set that must not be read."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError("the test part was read")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoint")


@pytest.fixture(scope="module")
def reported():
    return []


@pytest.fixture(scope="module")
def trained(folder, reported):
    """A finished training that had no test part; its checkpoint is in `folder`, its report points in `reported`."""
    return train(replace(stripes(8), test=Unreadable()), plan(), steps=40, checkpoint=folder, on_report=reported.append)


@pytest.mark.parametrize(
    ("size", "grayscale", "steps"), [(8, True, 20), (32, False, 20), (64, False, 12), (224, False, 10)]
)
def test_images_of_every_size_are_learned(size, grayscale, steps):
    """The majority-class baseline is 25 %."""
    dataset = stripes(size, images=120, grayscale=grayscale)
    trained = train(dataset, plan(), steps=steps)
    with torch.inference_mode():
        predicted = trained.classifier(torch.from_numpy(dataset.test.images)).argmax(1).numpy()
    assert (predicted == dataset.test.labels).mean() >= 0.8


def test_training_ends_with_the_first_step_beyond_the_budget(trained):
    assert 1.0 <= trained.seconds < 1.0 + 1.5 / 40


def test_report_points_are_spread_evenly_over_the_budget(trained, reported):
    assert tuple(reported) == trained.history
    assert [point.number for point in reported] == list(range(1, REPORT_POINTS + 1))
    for point in reported:
        assert point.seconds == pytest.approx(point.number / REPORT_POINTS, abs=2 / 40)
    rates = [point.learning_rate for point in reported]
    assert rates == sorted(rates, reverse=True)
    assert 0 <= rates[-1] < 0.1


def test_the_validation_accuracy_is_that_of_the_classifier(trained):
    part, indices = stripes(8).train, trained.validation
    with torch.inference_mode():
        predicted = trained.classifier(torch.from_numpy(part.images[indices])).argmax(1).numpy()
    assert trained.validation_accuracy == pytest.approx((predicted == part.labels[indices]).mean())


def test_a_finished_training_is_not_repeated(trained, folder):
    again = train(stripes(8), plan(), checkpoint=folder, on_report=lambda point: pytest.fail(f"trained again: {point}"))
    assert again.history == trained.history
    images = torch.from_numpy(stripes(8).test.images)
    with torch.inference_mode():
        assert torch.equal(trained.classifier(images), again.classifier(images))


def test_an_interrupted_training_resumes_after_its_last_checkpoint(tmp_path):
    class InterruptedError(Exception):
        pass

    def interrupt(point: ReportPoint) -> None:
        if point.number == 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(stripes(8), plan(), steps=40, checkpoint=tmp_path, on_report=interrupt)
    reported: list[ReportPoint] = []
    trained = train(stripes(8), plan(), steps=40, checkpoint=tmp_path, on_report=reported.append)
    assert [point.number for point in reported] == list(range(6, REPORT_POINTS + 1))
    assert [point.number for point in trained.history] == list(range(1, REPORT_POINTS + 1))
    assert reported[0].seconds == pytest.approx(6 / REPORT_POINTS, abs=2 / 40)


def test_a_checkpoint_of_other_data_is_ignored(trained, folder, tmp_path):
    (tmp_path / "state.safetensors").write_bytes((folder / "state.safetensors").read_bytes())
    other = train(stripes(8, seed=2), plan(), steps=5, checkpoint=tmp_path)
    assert other.history[0].seconds < trained.seconds
    assert len(other.history) < len(trained.history)


@pytest.mark.parametrize(("images", "classes"), [(6, 2), (400, 100)])
def test_few_images_and_many_classes_can_be_trained(images, classes):
    dataset = stripes(8, images=images, classes=classes)
    trained = train(dataset, plan(validation_fraction=0.4), steps=5)
    with torch.inference_mode():
        assert trained.classifier(torch.from_numpy(dataset.test.images)).shape == (80, classes)


def test_identical_images_train_to_finite_probabilities():
    dataset = stripes(8)
    same = replace(dataset.train, images=np.full_like(dataset.train.images, 9))
    trained = train(replace(dataset, train=same), plan())
    with torch.inference_mode():
        assert torch.isfinite(trained.classifier(torch.from_numpy(same.images[:4]))).all()


def test_a_loss_that_is_not_finite_ends_the_training(monkeypatch):
    batch = torch.full((32, 3, 8, 8), torch.nan), torch.zeros(32, dtype=torch.int64)
    monkeypatch.setattr("image_classifier.training.loop.Batches.batch", lambda *_, **__: batch)
    with pytest.raises(TrainingError, match="the loss became nan at step 1; try another --seed"):
        train(stripes(8), plan(), steps=5)
