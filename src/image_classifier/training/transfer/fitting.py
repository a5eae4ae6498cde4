"""Training on a backbone within the time budget: features, a linear classifier of them, then fine-tuning.

The features of the validation split come first, then those of the training images, in an order in which every part has
all classes in their proportions; what the budget does not allow is left out. Then those of the mirror images, if these
keep their class. The rest of the budget is for fine-tuning, if it is long enough; the result is kept if it is better on
the validation split by more than chance.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from image_classifier.backbones import Backbone, FeatureGraph, FeatureMap, build_feature_graph
from image_classifier.datasets import MAX_CLASS_RATIO
from image_classifier.errors import TrainingError
from image_classifier.files import write_atomically
from image_classifier.progress import Progress
from image_classifier.settings import Recipe
from image_classifier.training.checkpoint import load_checkpoint, write_checkpoint
from image_classifier.training.learning_curve import OnReport, ReportPoint
from image_classifier.training.mirroring import choose_rows, mirrored_images_keep_their_class
from image_classifier.training.plan import Clock, Indices, TrainingInputs
from image_classifier.training.trained import Trained, fit_temperature
from image_classifier.training.transfer.classifier import BackboneClassifier
from image_classifier.training.transfer.device_features import DeviceExtractor
from image_classifier.training.transfer.features import Extractor, FeatureExtractor, FeatureFile, Features
from image_classifier.training.transfer.fine_tuning import DEFAULT_BATCH_IMAGES, Depth, FineTuner, Samples, choose_depth
from image_classifier.training.transfer.head import Head, Labels, Scale, fit_head

_MAX_VALIDATION_FRACTION = 0.2
"""Part of the budget for the features of the validation split."""
_FEATURES_FRACTION, _MIRRORED_FRACTION = 0.75, 0.85
"""Parts of the budget after which no more features are computed, of the images and of their mirror images, which also
leave the fine-tuning its time."""
_HEAD_FRACTION = 0.1
"""Part of the budget that fitting the classifier is expected to take."""
_MAX_ROWS = 100_000
"""Images and mirror images that the classifier is fitted to, so that their features fit into 1 GiB."""
_MAX_VALIDATION_ROWS = 10_000
_FIRST_IMAGES = 4
"""Images of every class whose features are computed first."""
_PRIOR_EXPONENTS = (0.0, 0.5, 0.8, 0.9, 1.0)
"""Strengths of the correction that are tried. With 2 photos of hats beside 3,000 of other clothes, the recall of hats
was 0, 5, 56, 80 and 94 %, and of the others 100, 100, 100, 98 and 95 %; weights in the loss gained nothing."""
_REPORTS = 6
"""Report points of the fine-tuning, at most."""
_MAX_REPORT_FRACTION = 0.1
"""Part of the time of the fine-tuning that reports before the last one may take."""
_PROGRESS_FILE = "progress.json"

Logits = npt.NDArray[np.float32]


class _Part(NamedTuple):
    """The features of some images."""

    file: FeatureFile
    """Those that this process has computed."""
    rows: Indices
    """The images, in the first process those of all processes."""
    features: Features
    """float32 [N, D], of `rows`."""


class _Candidate(NamedTuple):
    """A model that may become the result."""

    graph: FeatureGraph
    head: Head
    logits: Logits
    """On the validation split."""


def fit_on_backbone(
    inputs: TrainingInputs,
    backbone: Backbone,
    checkpoint: Path | None,
    on_report: OnReport,
    clock: Clock,
    shared_features: Path | None = None,
) -> Trained | None:
    """Train on a backbone. All processes of a group call this function; the others than the first return None.

    In the folder `shared_features`, one training at a time keeps the features for others that differ only in the
    recipe. Raises TrainingError if the budget is too short for a training.
    """
    return _BackboneTraining(inputs, backbone, checkpoint, on_report, clock, shared_features).run()


class _BackboneTraining:
    """A training of one model on a backbone. Its methods are collective."""

    def __init__(
        self,
        inputs: TrainingInputs,
        backbone: Backbone,
        checkpoint: Path | None,
        on_report: OnReport,
        clock: Clock,
        shared_features: Path | None,
    ) -> None:
        self._inputs, self._checkpoint, self._on_report, self._clock = inputs, checkpoint, on_report, clock
        self._group, self._labels, self._seconds = inputs.plan.group, inputs.dataset.train.labels, inputs.plan.budget
        self._started = clock()
        self._steps = 0
        size = inputs.dataset.image_size
        self._network = backbone.network()
        self._graph = build_feature_graph(self._network, size) if self._network else backbone.feature_graph(size)
        # A checkpoint with weights is written by the fine-tuning; before, there are only features and the progress.
        stored = load_checkpoint(checkpoint, inputs.key) if checkpoint else None
        self._stored = self._group.broadcast(stored)
        progress = self._stored[1] if self._stored else self._group.broadcast(self._load_progress())
        self._started -= progress.get("elapsed", inputs.plan.spent)
        # What was reported before the fine-tuning is reported again.
        self._history = [ReportPoint(**point) for point in progress["history"]] if self._stored else []
        if "depth" in progress:
            self._depth = Depth(**progress["depth"]) if progress["depth"] else None
        else:
            self._depth = self._choose_depth()
        activations = self._depth.activations(self._graph) if self._depth else None
        self._extractor = self._new_extractor(activations)
        self._folder, key = checkpoint, inputs.key
        self._are_shared = shared_features is not None
        if shared_features is not None:
            self._folder = shared_features / f"stages-{self._depth.stages if self._depth else 0}"
            key = replace(inputs, plan=replace(inputs.plan, recipe=Recipe())).key
        self._file_key = f"{key} {backbone.digest} {activations.name if activations else ''}"

    @property
    def _elapsed(self) -> float:
        """Seconds of the budget that are spent, without interruptions."""
        return self._clock() - self._started

    def run(self) -> Trained | None:
        inputs, group = self._inputs, self._group
        order = [proportional_order(rows, self._labels, inputs.plan.seed) for rows in (inputs.validation, inputs.train)]
        order = [order[0][:_MAX_VALIDATION_ROWS], order[1][:_MAX_ROWS]]
        with Progress("features", sum(map(len, order)), "images") as progress:
            validation = self._extract("validation", order[0], _MAX_VALIDATION_FRACTION, progress)
            parts = [self._extract("train", order[1], _FEATURES_FRACTION, progress)]
        frozen = self._fit_head(validation, parts)
        mirrored = self._extract_mirrored(frozen, validation, parts[0])
        if mirrored is not None:
            parts.append(mirrored)
            candidate = self._fit_head(validation, parts, frozen.head.strength if frozen else None)
            if candidate and frozen and self._loss(candidate, validation) <= self._loss(frozen, validation):
                frozen = candidate
        tuned = self._fine_tune(frozen, validation, parts)
        return self._trained(frozen, tuned, validation, parts) if group.is_first else None

    def _load_progress(self) -> dict[str, Any]:
        """The time that was spent, and the depth, of an interrupted training that was not fine-tuning yet."""
        if self._checkpoint is None:
            return {}
        try:
            stored = json.loads((self._checkpoint / _PROGRESS_FILE).read_text())
            return dict(stored) if stored["key"] == self._inputs.key else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _save_progress(self) -> None:
        if self._checkpoint is not None:
            values = {"key": self._inputs.key, **self._progress}
            write_atomically(self._checkpoint / _PROGRESS_FILE, json.dumps(values).encode())

    @property
    def _progress(self) -> dict[str, Any]:
        depth = self._depth._asdict() if self._depth else None
        return {"elapsed": self._elapsed, "depth": depth}

    def _new_extractor(self, activations: FeatureMap | None = None) -> Extractor:
        device = self._inputs.device
        if self._network is None or device.type == "cpu":  # on which ONNX Runtime is three times as fast as PyTorch
            return FeatureExtractor(self._graph, self._inputs.plan.threads, activations)
        return DeviceExtractor(self._network, self._graph, device, activations)

    def _choose_depth(self) -> Depth | None:
        """From where on the network is fine-tuned; None: not at all. The first process decides."""
        inputs, group, depth = self._inputs, self._group, None
        max_stages = inputs.plan.recipe.max_stages
        if group.is_first and self._network is not None and max_stages:
            images = min(_MAX_ROWS, len(inputs.train))
            extracted = images + len(inputs.validation)
            seconds = extracted / group.size * self._new_extractor().seconds_per_image(inputs.dataset.image_size)
            depth = choose_depth(
                self._network,
                self._graph,
                max_stages=max_stages,
                images=images / group.size,
                seconds=(1 - _HEAD_FRACTION) * self._seconds - inputs.plan.spent - seconds,
                device=inputs.device,
            )
        return group.broadcast(depth)

    def _extract(
        self, name: str, rows: Indices, fraction: float, progress: Progress, *, mirrored: bool = False
    ) -> _Part:
        """The features of `rows` until a part of the budget is spent.

        Each process computes a share; the first one gets all of them, the others their own.
        """
        group = self._group
        file = FeatureFile(self._folder, self._file_key, name, rows[group.rank :: group.size], self._extractor)
        # Features that an earlier training computed take as much of the budget as they took it, so that fine-tuning has
        # no more time than in a training of its own.
        spent = self._folder / f"{name}.seconds" if self._folder and self._are_shared else None
        seconds = float(spent.read_text()) if spent is not None and file.done else 0.0
        self._started -= seconds
        began = self._elapsed - seconds

        def is_over() -> bool:
            if self._stored:  # the fine-tuning has begun with that many; those whose files are lost are computed again
                return file.done * group.size >= int(self._stored[1]["images"].get(name, 0))
            return self._elapsed >= fraction * self._seconds

        try:
            if not (file.done and is_over()):
                file.extract(
                    self._inputs.dataset,
                    mirrored=mirrored,
                    is_over=is_over,
                    on_progress=lambda images: progress.advance(images * group.size),
                )
        finally:
            if spent is not None:
                write_atomically(spent, str(self._elapsed - began).encode())
        self._save_progress()
        shares = group.gather((file.rows[: file.done], np.asarray(file.values)))
        return _Part(file, *(_joined([share[field] for share in shares]) for field in (0, 1)))

    def _extract_mirrored(self, frozen: _Candidate | None, validation: _Part, train: _Part) -> _Part | None:
        """The features of mirror images; None if mirror images lose their class, or if there is no time."""
        flip = self._inputs.flip
        if flip is None and frozen is not None:
            flip = self._mirrored_images_keep_their_class(frozen, validation)
        fraction = min(_MIRRORED_FRACTION, 1 - (self._depth.seconds if self._depth else 0) / self._seconds)
        is_late = not self._stored and self._elapsed >= fraction * self._seconds
        # The others learn from the rows whether there are any.
        rows = self._group.broadcast(train.rows[: 0 if is_late or not flip else _MAX_ROWS - len(train.rows)])
        if not len(rows):
            return None
        with Progress("features of mirror images", len(rows), "images") as progress:
            return self._extract("mirrored", rows, fraction, progress, mirrored=True)

    def _mirrored_images_keep_their_class(self, frozen: _Candidate, validation: _Part) -> bool:
        """Whether they do by a test on the validation split; without evidence they do."""
        labels = self._labels[validation.rows]
        chosen = choose_rows(labels)
        file = FeatureFile(None, "", "", validation.rows[chosen], self._extractor)
        file.extract(self._inputs.dataset, mirrored=True, is_over=lambda: False, on_progress=lambda _: None)
        mirrored = frozen.head.logits(file.values).astype(np.float64)
        logits = frozen.logits[chosen].astype(np.float64)
        return mirrored_images_keep_their_class(logits, mirrored, labels[chosen]) is not False

    def _fit_head(self, validation: _Part, parts: list[_Part], strength: float | None = None) -> _Candidate | None:
        """The classifier of the frozen features; None in the others than the first process.

        The `strength` is chosen without mirror images: an image in one fold and its mirror image in another one would
        make it too weak.
        """
        if not self._group.is_first:
            return None
        labels, classes = self._labels, len(self._inputs.dataset.classes)
        rows, features = _joined([part.rows for part in parts]), _joined([part.features for part in parts])
        if len(np.unique(labels[rows])) < len(np.unique(labels[self._inputs.train])):
            raise TrainingError(
                f"the budget of {self._seconds:g} s is too short: it is enough for the features of {len(rows):,} of "
                f"{len(self._inputs.train):,} images, which lack some of the classes; use a larger --budget or a "
                "smaller --image-size"
            )
        head = fit_head(
            features,
            labels[rows],
            classes,
            validation=(validation.features, labels[validation.rows]),
            strength=strength,
            is_over=lambda: self._elapsed >= self._seconds,
        )
        candidate = _Candidate(self._graph, head, head.logits(validation.features))
        if not self._stored:
            self._report(_cross_entropy(head.logits(features), labels[rows]), 0.0, candidate.logits, validation)
        return candidate

    def _report(self, train_loss: float, rate_fraction: float, logits: Logits, validation: _Part) -> None:
        labels = self._labels[validation.rows]
        accuracy = float((logits.argmax(axis=1) == labels).mean())
        loss, number = _cross_entropy(logits, labels), len(self._history) + 1
        self._history.append(ReportPoint(number, self._elapsed, rate_fraction, train_loss, loss, accuracy))
        self._save_progress()
        self._on_report(self._history[-1])

    def _loss(self, candidate: _Candidate, validation: _Part) -> float:
        return _cross_entropy(candidate.logits, self._labels[validation.rows])

    def _fine_tune(self, frozen: _Candidate | None, validation: _Part, parts: list[_Part]) -> _Candidate | None:
        """The fine-tuned model; None without time or need for it, and in the others than the first process."""
        group, plan, depth, network = self._group, self._inputs.plan, self._depth, self._network
        samples = Samples([part.file for part in parts], self._labels)
        have_samples = all(group.gather(len(samples) > 0))
        is_late = not self._stored and self._elapsed >= self._seconds
        # Without an error on the validation split there is nothing to gain that it could show.
        has_errors = frozen is not None and bool((frozen.logits.argmax(1) != self._labels[validation.rows]).any())
        if not group.broadcast(have_samples and has_errors and not is_late) or depth is None or network is None:
            return None
        fitted = (frozen.head, Scale.of(_joined([part.features for part in parts]))) if frozen else None
        head, scale = cast(tuple[Head, Scale], group.broadcast(fitted))
        tuner = FineTuner(
            network,
            depth,
            head,
            scale,
            samples,
            group=group,
            device=self._inputs.device,
            recipe=plan.recipe,
            seed=plan.seed,
        )
        began = self._elapsed
        if self._stored:
            tuner.restore(self._stored)
            began = self._stored[1]["began"]
        losses: list[float] = []
        report_seconds, reports = 0.0, 0

        def evaluate() -> Logits:
            return np.concatenate(group.gather(tuner.logits(validation.file)))

        def report(done: float) -> Logits:
            logits = evaluate()
            if group.is_first:
                if self._checkpoint is not None:
                    names = ("validation", "train", "mirrored")
                    images = {name: len(part.rows) for name, part in zip(names, [validation, *parts], strict=False)}
                    history = [asdict(point) for point in self._history]
                    values = {**self._progress, "history": history, "images": images}
                    values |= {"began": began, "step": tuner.step}
                    write_checkpoint(self._checkpoint, self._inputs.key, (tuner.state, values))
                train_loss = float(np.mean(losses)) if losses else self._history[-1].train_loss
                self._report(train_loss, 1 - done, logits, validation)
                losses.clear()
            return logits

        with Progress("fine-tuning", max(self._seconds - began, 0), "s") as progress:
            before = self._elapsed
            while True:
                elapsed = self._elapsed
                done = max((elapsed - began) / max(self._seconds - began, 1e-9), tuner.step / tuner.max_steps)
                is_due = done * _REPORTS >= reports + 1 and report_seconds <= _MAX_REPORT_FRACTION * (elapsed - began)
                # All processes follow the first one.
                done, must_report = group.broadcast_numbers(done, is_due)
                if done >= 1 and tuner.step:
                    break
                if must_report and losses:
                    report(done)
                    reports, report_seconds = int(done * _REPORTS), report_seconds + self._elapsed - elapsed
                losses.append(tuner.train_step(min(done, 1.0)))
                progress.advance(self._elapsed - before, f"loss {losses[-1]:.3f}")
                before = self._elapsed
        logits, self._steps = report(1.0), tuner.step
        if not group.is_first:
            return None
        tuned, tuned_head = tuner.result()
        return _Candidate(build_feature_graph(tuned, self._inputs.dataset.image_size), tuned_head, logits)

    def _trained(
        self, frozen: _Candidate | None, tuned: _Candidate | None, validation: _Part, parts: list[_Part]
    ) -> Trained:
        assert frozen is not None
        labels = self._labels[validation.rows]
        is_tuned = tuned is not None and is_better(tuned.logits, frozen.logits, labels)
        chosen = tuned if tuned is not None and is_tuned else frozen
        counts = np.bincount(self._labels[self._inputs.train], minlength=chosen.logits.shape[1])
        shift = prior_correction(chosen.logits, labels, counts)
        logits = chosen.logits - shift
        temperature = _temperature(logits, labels)
        recipe = self._inputs.plan.recipe
        parameters: Mapping[str, int | float | str | bool] = {
            **recipe.values(on_backbone=True),
            "batch_size": recipe.batch_size or DEFAULT_BATCH_IMAGES,
            "stages": self._depth.stages if self._depth else 0,
            "steps": self._steps,
            "processes": self._group.size,
            "features": chosen.graph.dimensions,
            "images_used": sum(len(part.rows) for part in parts),
            "regularization": frozen.head.strength,
            "mirror": "yes" if len(parts) > 1 else "no",
            "fine_tuned": is_tuned,
            "corrected_for_class_sizes": bool(shift.any()),
            "temperature": temperature,
        }
        return Trained(
            classifier=BackboneClassifier(
                chosen.graph, chosen.head._replace(bias=chosen.head.bias - shift), temperature
            ),
            history=tuple(self._history),
            validation=self._inputs.validation,
            validation_accuracy=float((logits.argmax(axis=1) == labels).mean()),
            seconds=self._elapsed,
            parameters=dict(parameters),
        )


def is_better(tuned: Logits, frozen: Logits, labels: Labels) -> bool:
    """Whether the first logits predict the labels better than the second ones by more than a standard error.

    The loss is the Brier score of calibrated probabilities. One standard error is enough, as fine-tuning is usually
    better by far, or not at all.
    """
    scores = []
    for logits in (tuned, frozen):
        values = torch.from_numpy(logits).double() / _temperature(logits, labels)
        targets = F.one_hot(torch.from_numpy(labels), logits.shape[1])
        scores.append((F.softmax(values, dim=1) - targets).square().sum(dim=1).numpy())
    gains = scores[1] - scores[0]
    return bool(gains.mean() > gains.std(ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else False


def prior_correction(logits: Logits, labels: Labels, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """What is subtracted from the logits, float32 [K], so that small classes are recognized, too; 0 for balanced data.

    `logits` and `labels` are of the validation split, and `counts` the training images of each class. The result is a
    multiple of the logarithm of the classes' frequencies (Menon et al. 2021, arXiv:2007.07314): the one with the
    highest balanced accuracy on the validation split.
    """
    frequent = counts.clip(1)
    if frequent.max() <= MAX_CLASS_RATIO * frequent.min():
        return np.zeros(len(counts), np.float32)
    prior = np.log(frequent / frequent.sum()).astype(np.float32)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def balanced_accuracy(exponent: float) -> float:
        is_right = (logits - exponent * prior).argmax(axis=1) == labels
        return float(np.mean([is_right[rows].mean() for rows in members]))

    # The first of equals, which corrects least.
    best = max(_PRIOR_EXPONENTS, key=balanced_accuracy)
    return (best * prior).astype(np.float32) if best else np.zeros(len(counts), np.float32)


def proportional_order(rows: Indices, labels: Labels, seed: int) -> Indices:
    """`rows` in a random order: a few images of every class, then such that each beginning has the whole's proportions.

    So a class that is rare, or one of many, is not missing if there is no time for all images.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(rows)
    place = np.empty(len(shuffled))
    for label in np.unique(labels[shuffled]):
        members = np.flatnonzero(labels[shuffled] == label)
        rank = np.arange(len(members))
        place[members] = (rank + generator.random()) / len(members) - (rank < _FIRST_IMAGES)
    ordered: Indices = shuffled[np.argsort(place, kind="stable")]
    return ordered


def _joined(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """All arrays in one; without a copy if there is only one."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _temperature(logits: Logits, labels: Labels) -> float:
    return fit_temperature(torch.from_numpy(logits), torch.from_numpy(labels))


def _cross_entropy(logits: Logits, labels: Labels) -> float:
    loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
    return loss if math.isfinite(loss) else math.inf
