"""Plots of an evaluation: confusion matrix, reliability diagram, robustness, and error by coverage.

Figures are made without pyplot, which keeps global state and would look for a display.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from image_classifier.evaluation.evaluation import Evaluation
from image_classifier.evaluation.intervals import wilson_interval

_SIZE_INCHES = (6.0, 5.0)
_MAX_LABELED_CLASSES = 30
_MAX_LABEL_CHARACTERS = 32  # two longer labels leave no room for the matrix
_CANDIDATE_COLOR, _CHAMPION_COLOR = "tab:blue", "tab:gray"


def plot_confusion_matrix(evaluation: Evaluation) -> Figure:
    """Confusion matrix, normalized by true class; cells and axes are labeled if there are few classes."""
    counts = evaluation.confusion
    classes = evaluation.classes
    labels = plot_labels(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # All figures are displayed at the same size: a larger one has room for more labels, in smaller text.
    scale = float(np.clip(len(classes) / 10, 1.0, 2.5))
    figure = Figure(figsize=(_SIZE_INCHES[0] * scale, _SIZE_INCHES[1] * scale), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    title = f"Confusion matrix ({evaluation.images:,} test images)"
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    if labels:
        # A class name may contain signs that matplotlib would parse as mathematics.
        axes.set_xticks(range(len(classes)), labels, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(len(classes)), labels, parse_math=False)
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(image, ax=axes, shrink=0.8, label="fraction of the true class")
    return figure


def plot_labels(classes: Sequence[str]) -> list[str]:
    """The label of each class in the confusion matrix; [] if there are too many classes for labels.

    A name that is too long, or in a script that matplotlib's font lacks or that is written from right to left, is
    replaced by the position of its class, from 0: "class 7".
    """
    if len(classes) > _MAX_LABELED_CLASSES:
        return []
    font = get_font(findfont(FontProperties()))

    def can_be_drawn(name: str) -> bool:
        return len(name) <= _MAX_LABEL_CHARACTERS and all(
            font.get_char_index(ord(character)) and unicodedata.bidirectional(character) not in ("R", "AL")
            for character in name
        )

    return [name if can_be_drawn(name) else f"class {position}" for position, name in enumerate(classes)]


def plot_reliability(evaluation: Evaluation, champion: Evaluation | None = None) -> Figure:
    """Reliability diagram: accuracy by confidence. A dot's area shows the number of images in its bin."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="gray", lw=1, ls=":", label="perfect calibration")
    for label, evaluated, color in _models(evaluation, champion):
        # The accuracy of a handful of images is noise that draws the eye.
        min_images = min(10, evaluated.images / 50)
        bins = [reliability for reliability in evaluated.reliability if reliability[0] >= min_images]
        counts, confidences, accuracies = zip(*bins, strict=True)
        label = f"{label}: calibration error {evaluated.calibration_error:.3f}"
        axes.plot(confidences, accuracies, color=color, lw=1, label=label)
        areas = [10 + 300 * count / evaluated.images for count in counts]
        axes.scatter(confidences, accuracies, s=areas, color=color, alpha=0.7, clip_on=False, zorder=3)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), title="Reliability diagram")
    figure.legend(loc="outside lower center")
    return figure


def plot_robustness(evaluation: Evaluation, champion: Evaluation | None = None) -> Figure:
    """Accuracy on the original test images and under each corruption, with 95 % confidence intervals."""
    names = ["original", *evaluation.corruptions]
    figure = Figure(figsize=(7, 0.8 + 0.36 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for number, (label, evaluated, color) in enumerate(_models(evaluation, champion)):
        for position, name in enumerate(names):
            if position and name not in evaluated.corruptions:
                continue
            correct = evaluated.correct_under(name) if position else evaluated.correct
            low, high = wilson_interval(int(correct.sum()), len(correct))
            height = position + 0.22 * number
            axes.plot([low, high], [height, height], color=color, lw=2, alpha=0.5)
            axes.plot(correct.mean(), height, "o", color=color, ms=5, label=None if position else label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set(xlabel="accuracy (95 % confidence interval)", title="Accuracy under image corruptions")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def plot_coverage(evaluation: Evaluation, champion: Evaluation | None = None) -> Figure:
    """Error rate of the most confident predictions by coverage, with the abstention threshold."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    for label, evaluated, color in _models(evaluation, champion):
        order = np.argsort(-np.array(evaluated.confidences), kind="stable")
        covered = np.arange(1, evaluated.images + 1)
        # The error rate of the first few predictions jumps between 0 and 1.
        shown = covered >= min(20, evaluated.images)
        errors = np.cumsum(~evaluated.correct[order]) / covered
        axes.plot(covered[shown] / evaluated.images, errors[shown], color=color, label=label)
    if evaluation.coverage and evaluation.abstention:
        count, wrong = evaluation.coverage
        coverage, error_rate = count / evaluation.images, wrong / max(count, 1)
        axes.plot(coverage, error_rate, "D", color=_CANDIDATE_COLOR, ms=8, label="abstention threshold")
        axes.axhline(evaluation.abstention.error, color="gray", lw=1, ls=":", label="target error rate")
    axes.set(xlabel="coverage (fraction of images with a prediction)", ylabel="error rate", xlim=(0, 1.02))
    axes.set(title="Error rate by coverage", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _models(evaluation: Evaluation, champion: Evaluation | None) -> list[tuple[str, Evaluation, str]]:
    candidate = [("candidate", evaluation, _CANDIDATE_COLOR)]
    return candidate if champion is None else [*candidate, ("champion", champion, _CHAMPION_COLOR)]
