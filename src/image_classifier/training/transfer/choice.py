"""The choice of a backbone, by the size of the images, the budget and the limits on the model."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from image_classifier.backbones import SHIPPED, Backbone
from image_classifier.datasets import MAX_SMALL_IMAGE_SIZE, Dataset
from image_classifier.package import time_in_turn
from image_classifier.settings import AUTO, NO_BACKBONE
from image_classifier.training.transfer.features import FeatureExtractor

_MAX_EXTRACTION_FRACTION = 0.1
"""Part of the budget that the features of all images may take with a slower, more accurate backbone, so that there is
time to fine-tune it. On 1,900 photos of clothes within 180 s, Lite0 has 91.8 % on the validation split after several
epochs, and Lite2 89.4 % after one and a half; frozen, they have 86.5 and 87.1 %."""
_TIMED_CALLS = 20


class BackboneChoice(NamedTuple):
    """A backbone, and the size of the images for it."""

    backbone: Backbone | None
    image_size: int


@dataclass(frozen=True)
class ModelLimits:
    """What the model must keep to. The settings of the same names describe the fields."""

    max_latency: float
    """Seconds."""
    max_model_size: int
    """Bytes; 0: unlimited."""


def has_backbone(backbone: str, dataset: Dataset) -> bool:
    """Whether a model is trained on a backbone, by the setting `backbone` and the size of the images."""
    return backbone != NO_BACKBONE and (backbone != AUTO or dataset.image_size > MAX_SMALL_IMAGE_SIZE)


def choose_backbone(
    backbone: str,
    named: Backbone | None,
    image_size: int,
    dataset: Dataset,
    *,
    budget: float,
    processes: int,
    threads: int,
    limits: ModelLimits,
) -> BackboneChoice:
    """Choose a backbone by the settings `backbone` and `image_size`; `named` is the one that the first one names.

    "auto" chooses none for small images. For others it chooses the most accurate backbone that keeps to the limits and
    whose features of all images take at most a tenth of the budget on this machine; else the fastest one that keeps
    to the limits; else none.
    """
    if not has_backbone(backbone, dataset):
        return BackboneChoice(None, dataset.image_size)
    if named is not None:
        return BackboneChoice(named, image_size or named.image_size)
    allowed: list[BackboneChoice] = []
    for candidate in SHIPPED.values():
        size = image_size or candidate.image_size
        latency, seconds = _times(candidate, size, threads)
        if latency > limits.max_latency or 0 < limits.max_model_size < candidate.weight_bytes:
            break
        images = len(dataset.train.labels)
        if allowed and images * seconds / processes > _MAX_EXTRACTION_FRACTION * budget:
            break
        allowed.append(BackboneChoice(candidate, size))
    return allowed[-1] if allowed else BackboneChoice(None, image_size or MAX_SMALL_IMAGE_SIZE)


def _times(backbone: Backbone, image_size: int, threads: int) -> tuple[float, float]:
    """Seconds for a single image on one CPU, and for an image of a batch on all of them."""
    graph = backbone.feature_graph(image_size)
    image = np.zeros((1, image_size, image_size, 3), np.uint8)
    latency = float(np.median(time_in_turn([(FeatureExtractor(graph, 1), image)], calls=_TIMED_CALLS)))
    return latency, FeatureExtractor(graph, threads).seconds_per_image(image_size)
