"""Data sets, trainings and untrained classifiers for the tests of training."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from image_classifier.datasets.dataset import Dataset, DatasetPart
from image_classifier.settings import Recipe
from image_classifier.training.distributed import SINGLE_PROCESS, Group
from image_classifier.training.learning_curve import ReportPoint
from image_classifier.training.loop import fit
from image_classifier.training.network import Classifier, Network
from image_classifier.training.plan import Clock, Plan
from image_classifier.training.trained import Trained


def stripes(size: int, *, images: int = 240, classes: int = 4, seed: int = 0, grayscale: bool = False) -> Dataset:
    """Noisy stripes whose class is their direction: learned in a few steps, but not from the mean color."""
    random = np.random.default_rng(seed)

    def part(count: int) -> DatasetPart:
        labels = np.arange(count) % classes
        angles = np.pi * labels / classes
        down, right = np.mgrid[:size, :size] * (16 / size)
        waves = np.cos(angles)[:, None, None] * right + np.sin(angles)[:, None, None] * down
        phases = random.uniform(0, 6.28, count)[:, None, None]
        pixels = 128 + 80 * np.sin(waves + phases) + random.normal(0, 20, (count, size, size))
        pixels = pixels.clip(0, 255).astype(np.uint8)[..., None].repeat(3, axis=3)
        hashes = np.random.default_rng(count).integers(0, 2**64, count, dtype=np.uint64)
        return DatasetPart(pixels, labels.astype(np.int64), [str(number) for number in range(count)], hashes)

    return Dataset(
        source="stripes",
        digest=f"{seed:064d}",
        classes=tuple(f"c{number}" for number in range(classes)),
        image_size=size,
        grayscale=grayscale,
        mirror=False,
        train=part(images),
        test=part(80),
        warnings=(),
    )


def plan(
    *, budget: float = 1.0, validation_fraction: float = 0.2, recipe: str = "", group: Group = SINGLE_PROCESS
) -> Plan:
    return Plan(budget, 0, validation_fraction, Recipe.parse(recipe), threads=1, group=group)


def clock(seconds: float) -> Clock:
    """A clock that advances by `seconds` each time it is read: a training reads it once a step and once a report."""
    return itertools.count(0, seconds).__next__


def train(
    dataset: Dataset,
    plan: Plan,
    *,
    steps: int = 30,
    checkpoint: Path | None = None,
    on_report: Callable[[ReportPoint], None] = lambda _: None,
) -> Trained:
    """Train with a clock that allows about this many steps and reports together, on a machine of any speed."""
    return fit(dataset, plan, checkpoint=checkpoint, on_report=on_report, clock=clock(plan.budget / steps))


def untrained_classifier(size: int, *, channels: int = 3, test_time_flip: bool = False) -> Classifier:
    """A classifier of 4 classes with random weights and real batch statistics."""
    torch.manual_seed(0)
    network = Network(channels=channels, classes=4, image_size=size, width=0.5)
    network.whiten(torch.randn(16, channels, size, size))
    network.train()
    network(torch.randn(64, channels, size, size))
    network.eval()
    mean, deviation = torch.full((channels,), 120.0), torch.full((channels,), 60.0)
    return Classifier(network, mean, deviation, test_time_flip=test_time_flip, temperature=0.1).eval()
