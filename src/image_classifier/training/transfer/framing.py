"""The choice between the center square of photos and the whole photos, by a trial with the features of a backbone."""

import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from image_classifier.backbones import Backbone
from image_classifier.datasets import Dataset, kept_by_crop, split_validation
from image_classifier.images import CROP, PAD
from image_classifier.package import Images
from image_classifier.training.plan import Indices
from image_classifier.training.transfer.features import FeatureExtractor
from image_classifier.training.transfer.fitting import proportional_order
from image_classifier.training.transfer.head import Labels, cross_validated_probabilities

_MAX_KEPT_FRACTION = 0.9
"""Mean fraction of the images that the center square may keep for a trial: photos of 4:3 keep 0.75."""
_MIN_IMAGES, _MAX_IMAGES = 40, 400
_IMAGES_PER_SECOND = 2
"""Images of a trial for a second of the budget. On two cores, 300 images of clothes took 9 s with EfficientNet-Lite0.
Of 60 s that was too much: the fine-tuning lacked the time to be better than the fitted classifier."""
_MAX_FRACTION = 0.2
"""Part of the budget that the features may take with a slower backbone."""
_MIN_GAIN = 0.005
"""Improvement of the Brier score below which the framings are as good: both may recognize all images."""
_BATCH_IMAGES = 32


class FramingChoice(NamedTuple):
    """A framing, and the evidence for it in words."""

    framing: str
    reason: str = ""
    seconds: float = 0.0
    """Of the trial, without the decoding of images."""


def is_framing_tried(dataset: Dataset) -> bool:
    """Whether a center crop cuts so much off the images that padding may be better."""
    originals = dataset.train.originals
    return originals is not None and bool(kept_by_crop(originals).mean() < _MAX_KEPT_FRACTION)


def framing_sample(dataset: Dataset, *, budget: float, validation_fraction: float, seed: int) -> Indices:
    """Rows of the training part for a trial, at most 400, without the validation split; none if they are too few.

    The first ones, up to any number, have the classes in the proportions of all.
    """
    rows, _ = split_validation(dataset, validation_fraction, seed)
    count = min(_MAX_IMAGES, int(_IMAGES_PER_SECOND * budget))
    ordered = proportional_order(rows, dataset.train.labels, seed)[:count]
    return ordered if len(ordered) >= _MIN_IMAGES else ordered[:0]


def choose_framing(
    backbone: Backbone, crops: Images, pads: Images, labels: Labels, classes: int, *, budget: float, threads: int
) -> FramingChoice:
    """Choose by images with each framing, both uint8 [N, S, S, 3], and their labels, int64 [N].

    Padding is chosen if the Brier score of a cross-validated linear classifier of its features is lower by more than a
    standard error of the difference and by 0.005.
    """
    started = time.monotonic()
    torch.set_num_threads(threads)
    extractor = FeatureExtractor(backbone.feature_graph(crops.shape[1]), threads)
    features: tuple[list[npt.NDArray[np.float32]], ...] = ([], [])
    for start in range(0, len(labels), _BATCH_IMAGES):
        for each, images in zip(features, (crops, pads), strict=True):
            each.append(extractor(images[start : start + _BATCH_IMAGES]).features)
        if start >= _MIN_IMAGES and time.monotonic() - started > _MAX_FRACTION * budget:
            break
    labels = labels[: sum(map(len, features[0]))]
    accuracies, scores = [], []
    for each in features:
        probabilities = cross_validated_probabilities(np.concatenate(each), labels, classes)
        accuracies.append(float((probabilities.argmax(axis=1) == labels).mean()))
        scores.append(np.square(probabilities - np.eye(classes)[labels]).sum(axis=1))
    difference = scores[0] - scores[1]
    gain, error = float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(labels)))
    framing = PAD if gain > max(error, _MIN_GAIN) else CROP
    whole, center = (f"{100 * accuracies[place]:.1f} %" for place in (1, 0))
    return FramingChoice(
        framing,
        f"framing {framing}: with padding, {whole} of {len(labels):,} training photos are recognized, with the center "
        f"crop {center} (Brier score {gain:+.3f} better with padding, standard error {error:.3f})",
        time.monotonic() - started,
    )
