"""The choice of a backbone, by the size of the images, the budget and the limits on the model."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from image_classifier.backbones import SHIPPED, Backbone
from image_classifier.datasets import MAX_SMALL_IMAGE_SIZE, Dataset
from image_classifier.package import Images, time_in_turn
from image_classifier.settings import AUTO, NO_BACKBONE
from image_classifier.training.transfer.features import FeatureExtractor

_MAX_EXTRACTION_FRACTION = 0.1
"""Part of the budget that the features of all images may take with a slower, more accurate backbone, so that there is
time to fine-tune it. On 1,900 photos of clothes within 180 s, Lite0 has 91.8 % on the validation split after several
epochs, and Lite2 89.4 % after one and a half; frozen, they have 86.5 and 87.1 %."""
_TIMED_CALLS = 20
_MIN_TRIAL_BUDGET = 30.0  # seconds; of less, half is too short for either
_SAMPLED_IMAGES, _THUMBNAIL_SIDE = 200, 112
_COLORED_FRACTION, _MIN_PHOTO_COLORS = 0.95, 24
"""Colors, of 16 levels a channel, that cover 95 % of an image. The median is 65 of photos of clothes and 86 of CIFAR's,
and at most 15 of generated spectrograms, gauges, textures and drawings; grayscale images have at most 16."""


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


def is_network_from_scratch_tried(backbone: str, choice: BackboneChoice, dataset: Dataset, budget: float) -> bool:
    """Whether a network is also trained from scratch, as "auto" chose a backbone for images that are unlike photos.

    Of 2,900 spectrogram-like images, after 30 s each, the backbone recognized 86.7 %, the network from scratch 89.9 %.
    """
    return (
        backbone == AUTO
        and choice.backbone is not None
        and budget >= _MIN_TRIAL_BUDGET
        and _median_colors(dataset) < _MIN_PHOTO_COLORS
    )


def _median_colors(dataset: Dataset) -> float:
    """The median, over a sample of the training images, of the number of colors that cover most of an image."""
    images = dataset.train.images
    rows = np.linspace(0, len(images) - 1, min(len(images), _SAMPLED_IMAGES)).astype(np.int64)
    return float(np.median([_colors(images[row]) for row in rows]))


def _colors(image: Images) -> int:
    side = (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)
    levels = np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BOX)).astype(np.int64) >> 4
    counts = np.bincount((levels @ [256, 16, 1]).ravel())
    covered = np.sort(counts)[::-1].cumsum()
    return int(np.searchsorted(covered, _COLORED_FRACTION * covered[-1])) + 1


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
