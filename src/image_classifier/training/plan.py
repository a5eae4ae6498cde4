"""The plan of a training, and the check that a data set can be trained with it."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from image_classifier.backbones import Backbone
from image_classifier.datasets import Dataset, split_validation
from image_classifier.errors import TrainingError
from image_classifier.images import CROP
from image_classifier.settings import Recipe
from image_classifier.training.distributed import SINGLE_PROCESS, Group

Clock = Callable[[], float]
"""Returns seconds, like time.perf_counter."""
Indices = npt.NDArray[np.int64]

_NOT_IN_KEY = ("threads", "group", "spent")
"""Fields of a plan without effect on what a checkpoint means; of the group only the size matters."""
_LARGE_IMAGE_SIZE = 160
_HALF_SIZE_BUDGET_FRACTION = 0.5


@dataclass(frozen=True)
class Plan:
    """Parameters of a training; the same in every process of a group."""

    budget: float
    """Seconds of training, counted from the first step."""
    seed: int
    validation_fraction: float
    """Fraction of the training part that becomes the validation split: it makes every choice and is not trained on."""
    recipe: Recipe
    threads: int
    mirror: str = "auto"
    """Horizontal flips: "yes", "no", or "auto" for a test on the validation split if the data set allows them."""
    backbone: Backbone | None = None
    """The pretrained network whose features are classified; None: a network is trained from scratch."""
    device: str = "cpu"
    group: Group = SINGLE_PROCESS
    spent: float = 0.0
    """Seconds of the budget that were spent on choices before."""


@dataclass(frozen=True)
class TrainingInputs:
    """A data set and a plan that fit together."""

    dataset: Dataset
    plan: Plan
    device: torch.device
    train: Indices
    """Sorted indices into `dataset.train` of the images that are trained on."""
    validation: Indices
    """Sorted indices into `dataset.train` of the validation split."""
    batch_size: int
    """Images per step of all processes together; a multiple of their number."""

    @classmethod
    def check(cls, dataset: Dataset, plan: Plan) -> Self:
        """Split the data set by the plan. Raises TrainingError if the plan cannot be carried out with it."""
        if len(dataset.classes) < 2:
            raise TrainingError(f"{dataset.source} has only one class; add images of at least one other class")
        device = require_device(plan.device)
        train, validation = split_validation(dataset, plan.validation_fraction, plan.seed)
        if len(validation) == 0:
            raise TrainingError(
                f"{dataset.source} has no class with two training images, so there is no validation split; add images: "
                "a class needs three, one of them for the test part"
            )
        batch_size = min(plan.recipe.batch_size or _default_batch_size(len(train)), len(train))
        if plan.group.size > batch_size:
            raise TrainingError(
                f"{plan.group.size} processes cannot share a batch of {batch_size} images; start fewer processes"
            )
        return cls(dataset, plan, device, train, validation, batch_size // plan.group.size * plan.group.size)

    @property
    def key(self) -> str:
        """Hash of the data and the parameters: a checkpoint with another key belongs to another training."""
        data, plan = self.dataset, self.plan
        parameters = {item.name: getattr(plan, item.name) for item in fields(plan) if item.name not in _NOT_IN_KEY}
        key = [data.digest, data.image_size, data.mirror, parameters, plan.group.size]
        key += [data.framing] if data.framing != CROP else []
        return hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()

    @property
    def flip(self) -> bool | None:
        """Whether images are flipped horizontally; None: to be decided during the training."""
        if self.plan.mirror != "auto" or not self.dataset.mirror:
            return self.plan.mirror == "yes"
        return None

    @property
    def half_size_seconds(self) -> float:
        """Seconds at the beginning of the training during which large images are halved in size; 0 for others.

        A step then takes a quarter of the time (progressive resizing, Howard et al. 2018, DAWNBench). Smaller images
        learn better at full size: on CIFAR-10's validation split at 64 and 128 pixels, and on mosaics of 64 pixels,
        with 60 seconds, halving them cost 0.1 to 1.7 points.
        """
        is_large = self.dataset.image_size >= _LARGE_IMAGE_SIZE
        return self.plan.budget * _HALF_SIZE_BUDGET_FRACTION if is_large else 0.0


def require_device(name: str) -> torch.device:
    """Return the device "cpu" or "cuda". Raises TrainingError if this machine has no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("the device is cuda, but PyTorch finds no GPU on this machine; use --device cpu")
    return torch.device(name)


def _default_batch_size(images: int) -> int:
    """A power of two from 32 to 256, with at least eight batches per epoch if there are enough images."""
    size: int = 2 ** int(math.log2(max(1, images / 8)))
    return min(images, max(32, min(256, size)))
