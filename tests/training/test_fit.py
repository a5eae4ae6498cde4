import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from image_classifier.datasets.dataset import Dataset, DatasetPart
from image_classifier.errors import TrainingError
from image_classifier.settings import Recipe
from image_classifier.training.distributed import ALONE, Group
from image_classifier.training.fit import REPORTS, Epoch, Plan, Trained, fit, fitted_temperature


def stripes(size: int, *, images: int = 240, classes: int = 4, seed: int = 0, grey: bool = False) -> Dataset:
    """Noisy stripes whose class is their direction: learnt in a second, but not by the mean colour."""
    random = np.random.default_rng(seed)

    def part(count: int) -> DatasetPart:
        labels = np.arange(count) % classes
        angles = np.pi * labels / classes
        down, right = np.mgrid[:size, :size] * (16 / size)
        waves = np.cos(angles)[:, None, None] * right + np.sin(angles)[:, None, None] * down
        phases = random.uniform(0, 6.28, count)[:, None, None]
        pixels = 128 + 80 * np.sin(waves + phases) + random.normal(0, 20, (count, size, size))
        pixels = pixels.clip(0, 255).astype(np.uint8)[..., None].repeat(3, axis=3)
        return DatasetPart(pixels, labels.astype(np.int64), [str(number) for number in range(count)])

    return Dataset(
        source="stripes",
        digest=f"{seed:064d}",
        classes=tuple(f"c{number}" for number in range(classes)),
        image_size=size,
        grey=grey,
        mirror=False,
        train=part(images),
        test=part(80),
        warnings=(),
    )


def train(
    dataset: Dataset,
    budget: float,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    validation_fraction: float = 0.2,
    group: Group = ALONE,
) -> Trained:
    plan = Plan(budget, 0, validation_fraction, Recipe(), threads=2, group=group)
    return fit(dataset, plan, checkpoint=checkpoint, on_epoch=on_epoch)


def accuracy(trained: Trained, part: DatasetPart) -> float:
    with torch.inference_mode():
        return float(
            (trained.classifier(torch.from_numpy(part.images)).argmax(1).numpy() == part.labels).mean()
        )


@pytest.mark.parametrize(
    ("size", "grey", "budget"), [(8, True, 2.0), (32, False, 4.0), (64, False, 4.0), (224, False, 8.0)]
)
def test_images_of_every_size_are_learnt(size, grey, budget):
    """Guessing gives 25 %; a busy machine makes few steps."""
    dataset = stripes(size, grey=grey)
    assert accuracy(train(dataset, budget), dataset.test) >= 0.5


def test_the_budget_is_kept_and_reported_evenly():
    epochs: list[Epoch] = []
    trained = train(stripes(16), 3.0, on_epoch=epochs.append)
    assert 3.0 <= trained.seconds <= 3.3
    assert 2 <= len(epochs) <= REPORTS + 1
    assert tuple(epochs) == trained.history
    assert [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert epochs[0].learning_rate > epochs[-1].learning_rate >= 0


def test_training_and_validation_images_are_apart_and_the_test_part_is_never_read():
    class Forbidden:
        def __getattr__(self, name: str) -> None:
            raise AssertionError("the test part was read")

    dataset = stripes(8)
    trained = train(Dataset(**{**vars(dataset), "test": Forbidden()}), 1.0)
    assert len(trained.validation) == round(0.2 * 240)
    assert len(np.unique(trained.validation)) == len(trained.validation)


def test_the_temperature_makes_confidence_what_accuracy_is():
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(20_000, 5, generator=generator) * 2
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator).squeeze(1)
    assert fitted_temperature(honest, labels) == pytest.approx(1.0, rel=0.05)
    assert fitted_temperature(honest * 3, labels) == pytest.approx(3.0, rel=0.05)
    assert fitted_temperature(honest / 10, labels) == pytest.approx(0.1, rel=0.05)


def test_answers_that_are_all_right_do_not_make_the_temperature_certain():
    logits = torch.eye(10).repeat(10, 1)
    confidence = (logits / fitted_temperature(logits, torch.arange(10).repeat(10))).softmax(1).max()
    assert 0.98 < confidence < 0.999


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.training.test_fit import stripes, train;"
        "train(stripes(16), 30.0, checkpoint=Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not (tmp_path / "state.safetensors").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    class EnoughError(Exception):
        pass

    def stop(epoch: Epoch) -> None:
        seen.append(epoch)
        raise EnoughError

    seen: list[Epoch] = []
    with pytest.raises(EnoughError):
        train(stripes(16), 30.0, checkpoint=tmp_path, on_epoch=stop)
    assert seen[0].number >= 2
    assert seen[0].seconds >= 30 / REPORTS


def test_a_checkpoint_of_other_data_is_not_taken_up(tmp_path):
    train(stripes(8, seed=1), 1.0, checkpoint=tmp_path)
    epochs: list[Epoch] = []
    train(stripes(8, seed=2), 1.0, checkpoint=tmp_path, on_epoch=epochs.append)
    assert epochs[0].number == 1


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(stripes(8), 1.0, checkpoint=tmp_path)
    epochs: list[Epoch] = []
    again = train(stripes(8), 1.0, checkpoint=tmp_path, on_epoch=epochs.append)
    assert epochs == []
    assert again.history == first.history
    images = torch.from_numpy(stripes(8).test.images)
    with torch.inference_mode():
        assert torch.equal(first.classifier(images), again.classifier(images))


def test_a_few_images_and_many_classes_train():
    dataset = stripes(8, images=6, classes=2)
    assert train(dataset, 1.0, validation_fraction=0.4).seconds >= 1.0
    dataset = stripes(8, images=400, classes=100)
    assert len(train(dataset, 1.0, validation_fraction=0.4).classifier.head.weight) == 100


def test_images_that_are_all_the_same_train_to_finite_answers():
    dataset = stripes(8)
    same = DatasetPart(np.full_like(dataset.train.images, 9), dataset.train.labels, dataset.train.names)
    trained = train(Dataset(**{**vars(dataset), "train": same}), 1.0)
    with torch.inference_mode():
        assert torch.isfinite(trained.classifier(torch.from_numpy(same.images[:4]))).all()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"classes": ("only",)}, "has one class only"),
        ({"train": stripes(8, images=1).train}, "one image a class to train with"),
    ],
)
def test_data_that_nothing_can_be_learnt_from_is_refused_in_words(change, expected):
    with pytest.raises(TrainingError, match=expected):
        train(Dataset(**{**vars(stripes(8)), **change}), 0.3)


def test_a_budget_too_short_for_a_step_is_refused_in_words():
    with pytest.raises(TrainingError, match="a budget of 1e-05 s is too short"):
        train(stripes(32), 1e-5)
