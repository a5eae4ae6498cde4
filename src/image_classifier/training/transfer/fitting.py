"""Training on a frozen backbone within the time budget: features of the images, then a linear classifier.

The features of the validation split come first, then those of the training images, in an order in which every part has
all classes in their proportions; what the budget does not allow is left out. Then those of the mirror images, if these
keep their class. Most of the time is the extraction; the classifier takes a few seconds.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from image_classifier.backbones import Backbone, FeatureGraph
from image_classifier.errors import TrainingError
from image_classifier.progress import Progress
from image_classifier.training.learning_curve import OnReport, ReportPoint
from image_classifier.training.mirroring import choose_rows, mirrored_images_keep_their_class
from image_classifier.training.plan import Clock, Indices, TrainingInputs
from image_classifier.training.trained import Trained, fit_temperature
from image_classifier.training.transfer.classifier import BackboneClassifier
from image_classifier.training.transfer.features import FeatureExtractor, FeatureFile, Features
from image_classifier.training.transfer.head import Head, Labels, fit_head

_MAX_VALIDATION_FRACTION = 0.2
"""Part of the budget for the features of the validation split."""
_FEATURES_FRACTION, _MIRRORED_FRACTION = 0.75, 0.9
"""Parts of the budget after which no more features are computed, of the images and of their mirror images."""
_MAX_ROWS = 100_000
"""Images and mirror images that the classifier is fitted to, so that their features fit into 1 GiB."""


class _Clock:
    """The time since the training began, or was resumed."""

    def __init__(self, clock: Clock, budget: float) -> None:
        self._clock, self._budget, self._started = clock, budget, clock()

    @property
    def elapsed(self) -> float:
        return self._clock() - self._started

    def is_over(self, fraction: float) -> Callable[[], bool]:
        """Whether a part of the budget is spent."""
        return lambda: self.elapsed >= fraction * self._budget


class _Extraction:
    """The features of this process's share of the images."""

    def __init__(self, inputs: TrainingInputs, backbone: Backbone, checkpoint: Path | None, clock: _Clock) -> None:
        self._inputs, self._checkpoint, self.clock = inputs, checkpoint, clock
        self.graph: FeatureGraph = backbone.feature_graph(inputs.dataset.image_size)
        self._extractor = FeatureExtractor(self.graph, inputs.plan.threads)
        self._key = f"{inputs.key} {backbone.digest}"

    def features(
        self, name: str, rows: Indices, fraction: float, *, mirrored: bool, progress: Progress | None
    ) -> tuple[Indices, Features]:
        """The features of `rows` until a part of the budget is spent: the rows that were done, and their features.

        Each process of the group computes a share; the first one gets all of them, the others their own. Collective.
        """
        group = self._inputs.plan.group
        file = FeatureFile(
            self._checkpoint, self._key, name, rows[group.rank :: group.size], self._extractor.dimensions
        )

        def on_progress(images: int) -> None:
            if progress is not None:
                progress.advance(images * group.size)

        file.extract(
            self._extractor,
            self._inputs.dataset,
            mirrored=mirrored,
            is_over=self.clock.is_over(fraction),
            on_progress=on_progress,
        )
        shares = group.gather((file.rows[: file.done], np.asarray(file.values)))
        return np.concatenate([share[0] for share in shares]), np.concatenate([share[1] for share in shares])

    def mirrored(self, rows: Indices) -> Features:
        """The features of the mirror images of a few rows, in this process alone."""
        file = FeatureFile(None, self._key, "", rows, self._extractor.dimensions)
        file.extract(
            self._extractor, self._inputs.dataset, mirrored=True, is_over=lambda: False, on_progress=lambda _: None
        )
        return file.values


def fit_on_backbone(
    inputs: TrainingInputs, backbone: Backbone, checkpoint: Path | None, on_report: OnReport, clock: Clock
) -> Trained:
    """Train a linear classifier on a frozen backbone. Raises TrainingError if the budget is too short for it."""
    time = _Clock(clock, inputs.plan.budget)
    extraction = _Extraction(inputs, backbone, checkpoint, time)
    dataset, labels, group = inputs.dataset, inputs.dataset.train.labels, inputs.plan.group
    history: list[ReportPoint] = []

    def report(head: Head, rows: Indices, features: Features) -> float:
        validation_loss, accuracy = _loss_and_accuracy(head, held_out, labels[validation])
        train_loss, _ = _loss_and_accuracy(head, features, labels[rows])
        history.append(ReportPoint(len(history) + 1, time.elapsed, 0.0, train_loss, validation_loss, accuracy))
        on_report(history[-1])
        return validation_loss

    def fit(rows: Indices, features: Features) -> Head:
        validated = (held_out, labels[validation])
        return fit_head(features, labels[rows], len(dataset.classes), validation=validated, is_over=time.is_over(1.0))

    train = proportional_order(inputs.train, labels, inputs.plan.seed)[:_MAX_ROWS]
    with Progress("features", len(inputs.validation) + len(train), "images") as progress:
        order = proportional_order(inputs.validation, labels, inputs.plan.seed)
        validation, held_out = extraction.features(
            "validation", order, _MAX_VALIDATION_FRACTION, mirrored=False, progress=progress
        )
        rows, features = extraction.features("train", train, _FEATURES_FRACTION, mirrored=False, progress=progress)
    if len(np.unique(labels[rows])) < len(np.unique(labels[inputs.train])):
        raise TrainingError(
            f"the budget of {inputs.plan.budget:g} s is too short: it allows the features of {len(rows):,} of "
            f"{len(inputs.train):,} images, which lack some of the classes; use a larger --budget"
        )
    head = fit(rows, features)
    loss = report(head, rows, features)
    images_seen, flip = len(rows), inputs.flip
    if flip is None:
        flip = _mirrored_images_keep_their_class(extraction, head, validation, held_out, labels)
    # The others learn from the rows whether there are any.
    to_mirror = group.broadcast(rows[: _MAX_ROWS - len(rows)] if flip else rows[:0])
    if len(to_mirror):
        with Progress("features of mirror images", len(to_mirror), "images") as progress:
            mirrored_rows, mirrored = extraction.features(
                "mirrored", to_mirror, _MIRRORED_FRACTION, mirrored=True, progress=progress
            )
        both, all_features = np.concatenate([rows, mirrored_rows]), np.concatenate([features, mirrored])
        candidate = fit(both, all_features)
        if report(candidate, both, all_features) <= loss:
            head, images_seen = candidate, len(both)
        else:
            flip = False
    else:
        flip = False
    logits = torch.from_numpy(head.logits(held_out))
    targets = torch.from_numpy(labels[validation])
    temperature = fit_temperature(logits, targets)
    return Trained(
        classifier=BackboneClassifier(extraction.graph, head, temperature),
        history=tuple(history),
        validation=inputs.validation,
        validation_accuracy=float((logits.argmax(1) == targets).float().mean()),
        seconds=time.elapsed,
        parameters={
            "processes": group.size,
            "features": extraction.graph.dimensions,
            "images_used": images_seen,
            "regularization": head.strength,
            "mirror": "yes" if flip else "no",
            "temperature": temperature,
        },
    )


def fit_on_backbone_worker(inputs: TrainingInputs, backbone: Backbone, clock: Clock) -> None:
    """Compute a share of the features for the first process of the group."""
    extraction = _Extraction(inputs, backbone, None, _Clock(clock, inputs.plan.budget))
    labels, group = inputs.dataset.train.labels, inputs.plan.group
    order = proportional_order(inputs.validation, labels, inputs.plan.seed)
    extraction.features("validation", order, _MAX_VALIDATION_FRACTION, mirrored=False, progress=None)
    train = proportional_order(inputs.train, labels, inputs.plan.seed)[:_MAX_ROWS]
    extraction.features("train", train, _FEATURES_FRACTION, mirrored=False, progress=None)
    rows = group.broadcast(np.empty(0, np.int64))
    if len(rows):
        extraction.features("mirrored", rows, _MIRRORED_FRACTION, mirrored=True, progress=None)


def proportional_order(rows: Indices, labels: Labels, seed: int) -> Indices:
    """`rows` in a random order whose every beginning has about the proportions of the classes of the whole."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(rows)
    place = np.empty(len(shuffled))
    for label in np.unique(labels[shuffled]):
        members = np.flatnonzero(labels[shuffled] == label)
        place[members] = (np.arange(len(members)) + generator.random()) / len(members)
    ordered: Indices = shuffled[np.argsort(place, kind="stable")]
    return ordered


def _mirrored_images_keep_their_class(
    extraction: _Extraction, head: Head, validation: Indices, held_out: Features, labels: Labels
) -> bool:
    """Whether they do by a test on the validation split; without evidence they do."""
    chosen = choose_rows(labels[validation])
    logits = head.logits(held_out[chosen]).astype(np.float64)
    mirrored = head.logits(extraction.mirrored(validation[chosen])).astype(np.float64)
    return mirrored_images_keep_their_class(logits, mirrored, labels[validation[chosen]]) is not False


def _loss_and_accuracy(head: Head, features: Features, labels: Labels) -> tuple[float, float]:
    logits, targets = torch.from_numpy(head.logits(features)), torch.from_numpy(labels)
    loss = float(F.cross_entropy(logits, targets))
    return (loss if math.isfinite(loss) else math.inf), float((logits.argmax(1) == targets).float().mean())
