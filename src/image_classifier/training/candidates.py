"""Training of several candidates within one budget, of which the best on the validation split is kept."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from image_classifier.datasets import Dataset
from image_classifier.package import Probabilities, batch_images
from image_classifier.settings import NO_BACKBONE
from image_classifier.training.learning_curve import OnReport, ReportPoint
from image_classifier.training.loop import fit, fit_worker
from image_classifier.training.plan import Clock, Indices, Plan
from image_classifier.training.trained import Trained
from image_classifier.training.transfer.classifier import BackboneClassifier
from image_classifier.training.transfer.fitting import Logits, is_better


class Candidate(NamedTuple):
    """A training with a part of the budget."""

    dataset: Dataset
    """The same images in all candidates, at any size."""
    plan: Plan

    @property
    def name(self) -> str:
        """The name of the backbone, or "none"."""
        return self.plan.backbone.name if self.plan.backbone else NO_BACKBONE


class Best(NamedTuple):
    """A candidate that was kept."""

    candidate: Candidate
    trained: Trained
    """The history and the seconds are those of all candidates."""
    reason: str
    """The validation accuracy of each candidate; empty if there is only one."""


def fit_best(
    candidates: Sequence[Candidate],
    *,
    checkpoint: Path,
    on_report: OnReport = lambda _: None,
    clock: Clock = time.perf_counter,
) -> Best:
    """Train each candidate, as `fit` does, and return the best one.

    A later candidate must be better than those before by more than a standard error. An interrupted training resumes;
    each candidate has its own folder in the `checkpoint` folder, the first one that folder itself. The first process
    of a group calls this function, the others `fit_best_worker`.
    """
    history: tuple[ReportPoint, ...] = ()
    seconds = 0.0
    best: Best | None = None
    best_logits = np.empty((0, 0), np.float32)
    accuracies = []
    for candidate in candidates:
        folder = checkpoint / candidate.name if history else checkpoint
        trained = _fit_after(history, seconds, candidate, folder, on_report, clock)
        if len(candidates) == 1:
            return Best(candidate, trained, "")
        history, seconds = history + trained.history, seconds + trained.seconds
        accuracies.append(f"{candidate.name} {100 * trained.validation_accuracy:.1f} %")
        logits = _validation_logits(candidate.dataset, trained)
        labels = candidate.dataset.train.labels[trained.validation]
        if best is None or is_better(logits, best_logits, labels):
            best, best_logits = Best(candidate, trained, ""), logits
    assert best is not None
    return Best(best.candidate, replace(best.trained, history=history, seconds=seconds), ", ".join(accuracies))


def fit_best_worker(candidates: Sequence[Candidate]) -> None:
    """Train the candidates together with the first process of the group."""
    for candidate in candidates:
        fit_worker(candidate.dataset, candidate.plan)


def _fit_after(
    history: Sequence[ReportPoint],
    seconds: float,
    candidate: Candidate,
    checkpoint: Path,
    on_report: OnReport,
    clock: Clock,
) -> Trained:
    """Train a candidate; its report points continue those of the candidates before, which took `seconds`."""

    def moved(point: ReportPoint) -> ReportPoint:
        return replace(point, number=len(history) + point.number, seconds=seconds + point.seconds)

    trained = fit(
        candidate.dataset,
        candidate.plan,
        checkpoint=checkpoint,
        on_report=lambda point: on_report(moved(point)),
        clock=clock,
    )
    return replace(trained, history=tuple(map(moved, trained.history)))


def _validation_logits(dataset: Dataset, trained: Trained) -> Logits:
    """Logarithms of the probabilities, float32 [V, K]."""
    classifier, rows, size = trained.classifier, trained.validation, batch_images(dataset.image_size)

    @torch.inference_mode()
    def probabilities(chunk: Indices) -> Probabilities:
        images = dataset.train.images[chunk]
        if isinstance(classifier, BackboneClassifier):
            return classifier.probabilities(images)
        found: Probabilities = classifier(torch.tensor(images)).numpy()
        return found

    parts = [probabilities(rows[start : start + size]) for start in range(0, len(rows), size)]
    logits: Logits = np.log(np.maximum(np.concatenate(parts), 1e-12), dtype=np.float32)
    return logits
