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


def test_a_training_whose_report_failed_resumes_after_that_report(tmp_path):
    class FailedReportError(Exception):
        pass

    def fail(point: ReportPoint) -> None:
        if point.number == 6:
            raise FailedReportError

    with pytest.raises(FailedReportError):
        train(stripes(8), plan(), steps=40, checkpoint=tmp_path, on_report=fail)
    reported: list[ReportPoint] = []
    trained = train(stripes(8), plan(), steps=40, checkpoint=tmp_path, on_report=reported.append)
    assert [point.number for point in reported] == list(range(7, REPORT_POINTS + 1))
    assert [point.number for point in trained.history] == list(range(1, REPORT_POINTS + 1))
    assert reported[0].seconds == pytest.approx(7 / REPORT_POINTS, abs=2 / 40)


@pytest.mark.parametrize(("classes", "mirror", "decided"), [(4, "auto", "no"), (2, "auto", "yes"), (4, "yes", "yes")])
def test_flips_are_off_if_mirrored_images_belong_to_another_class(classes, mirror, decided):
    """Mirrored stripes at 45 degrees are stripes at 135 degrees; those at 0 and 90 degrees keep their class."""
    dataset = replace(stripes(16, classes=classes), mirror=True)
    trained = train(dataset, replace(plan(), mirror=mirror), steps=60)
    assert trained.parameters["mirror"] == decided
    with torch.inference_mode():
        predicted = trained.classifier(torch.from_numpy(dataset.test.images)).argmax(1).numpy()
    assert ((predicted == dataset.test.labels).mean() > 0.9) == (mirror == "auto")


@pytest.mark.parametrize(("mirror", "allowed", "decided"), [("auto", False, "no"), ("no", True, "no")])
def test_images_are_not_flipped_if_the_data_set_or_the_plan_says_so(mirror, allowed, decided):
    """Flips would do no harm to these images."""
    trained = train(replace(stripes(8, classes=2), mirror=allowed), replace(plan(), mirror=mirror), steps=30)
    assert (trained.parameters["mirror"], trained.parameters["test_time_mirror"]) == (decided, False)


def test_without_evidence_images_are_flipped_after_a_third_of_the_budget(monkeypatch, tmp_path):
    decisions = []

    def undecided(*_: object) -> None:
        decisions.append(None)

    monkeypatch.setattr("image_classifier.training.loop.mirrored_images_keep_their_class", undecided)
    data = replace(stripes(8), mirror=True)
    assert train(data, plan(), steps=40, checkpoint=tmp_path).parameters["mirror"] == "yes"
    assert len(decisions) == REPORT_POINTS // 3


def test_a_training_of_one_step_flips_no_image():
    assert train(replace(stripes(8), mirror=True), plan(), steps=1).parameters["mirror"] == "no"


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
