"""The plots of a run, a report and a search: learning curve, confusion, reliability, robustness, coverage, course.

Figures are made without pyplot, which keeps global state and would look for a display.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from matplotlib.figure import Figure

from image_classifier.evaluation.evaluation import Evaluation, wilson_interval
from image_classifier.search import Finalist
from image_classifier.training import Epoch

_SIZE = (6.0, 5.0)
_MOST_LABELLED_CLASSES = 30
_CANDIDATE, _CHAMPION = "tab:blue", "tab:gray"


@dataclass(frozen=True)
class Attempt:
    """A trial of a search."""

    minutes: float
    """When it was over, since the search began."""
    accuracy: float
    """On the validation split; of one that was pruned, as far as it came."""
    pruned: bool
    default: bool
    """Whether its recipe is the default."""


def learning_curve(history: Sequence[Epoch]) -> Figure:
    """Loss and validation accuracy over the seconds of training."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    loss, accuracy = figure.add_subplot(), None
    seconds = [epoch.seconds for epoch in history]
    loss.plot(seconds, [epoch.train_loss for epoch in history], color="tab:blue", label="training loss")
    loss.plot(
        seconds,
        [epoch.validation_loss for epoch in history],
        color="tab:blue",
        ls="--",
        label="validation loss",
    )
    loss.set(xlabel="seconds of training", ylabel="loss", title="Learning curve")
    accuracy = loss.twinx()
    accuracy.plot(
        seconds,
        [epoch.validation_accuracy for epoch in history],
        color="tab:orange",
        label="validation accuracy",
    )
    accuracy.set(ylabel="accuracy", ylim=(0, 1))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Share of each true class's images by predicted class, with the counts where they can be read."""
    counts = evaluation.confusion
    classes = evaluation.classes
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # More classes get a larger figure, which is shown as large as the others: smaller text, and all of it.
    scale = float(np.clip(len(classes) / 10, 1.0, 2.5))
    figure = Figure(figsize=(_SIZE[0] * scale, _SIZE[1] * scale), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=f"Confusion on {evaluation.images:,} test images")
    if len(classes) <= _MOST_LABELLED_CLASSES:
        # A name is text, whatever signs of mathematics are in it.
        axes.set_xticks(
            range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor", parse_math=False
        )
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
        for row, column in zip(*np.nonzero(counts), strict=True):
            axes.text(
                column,
                row,
                str(counts[row, column]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shares[row, column] > 0.5 else "black",
            )
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return figure


def reliability(evaluation: Evaluation, champion: Evaluation | None = None) -> Figure:
    """Accuracy by confidence; a calibrated model lies on the diagonal. Dot areas show the images in a bin."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    for label, evaluated, color in _sides(evaluation, champion):
        # The accuracy of a handful of images tells nothing and draws the eye.
        least = min(10, evaluated.images / 50)
        bins = [part for part in evaluated.reliability if part[0] >= least]
        counts, confidences, accuracies = zip(*bins, strict=True)
        label = f"{label}: calibration error {evaluated.calibration_error:.3f}"
        axes.plot(confidences, accuracies, color=color, lw=1, label=label)
        areas = [10 + 300 * count / evaluated.images for count in counts]
        axes.scatter(confidences, accuracies, s=areas, color=color, alpha=0.7, clip_on=False, zorder=3)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), title="Reliability")
    figure.legend(loc="outside lower center")
    return figure


def robustness(evaluation: Evaluation, champion: Evaluation | None = None) -> Figure:
    """Accuracy on the test images as they are and under each corruption, with 95 % intervals."""
    names = ["as they are", *evaluation.corruptions]
    figure = Figure(figsize=(7, 0.8 + 0.36 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for number, (label, evaluated, color) in enumerate(_sides(evaluation, champion)):
        for position, name in enumerate(names):
            if position and name not in evaluated.corruptions:
                continue
            right = evaluated.right_under(name) if position else evaluated.right
            low, high = wilson_interval(int(right.sum()), len(right))
            height = position + 0.22 * number
            axes.plot([low, high], [height, height], color=color, lw=2, alpha=0.5)
            axes.plot(right.mean(), height, "o", color=color, ms=5, label=None if position else label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set(xlabel="accuracy", title="Accuracy under image trouble")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def coverage(evaluation: Evaluation, champion: Evaluation | None = None) -> Figure:
    """The error of the answers that are given, when only the most confident are; and the threshold's place."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    for label, evaluated, color in _sides(evaluation, champion):
        order = np.argsort(-np.array(evaluated.confidences), kind="stable")
        given = np.arange(1, evaluated.images + 1)
        # The first few answers' error jumps between 0 and 1 and tells nothing.
        shown = given >= min(20, evaluated.images)
        errors = np.cumsum(~evaluated.right[order]) / given
        axes.plot(given[shown] / evaluated.images, errors[shown], color=color, label=label)
    if evaluation.coverage and evaluation.abstention:
        answered, wrong = evaluation.coverage
        axes.plot(answered / evaluation.images, wrong / max(answered, 1), "D", color=_CANDIDATE, ms=8)
        axes.axhline(evaluation.abstention.error, color="grey", lw=1, ls=":")
    axes.set(xlabel="share of images that are answered", ylabel="error of the answers", xlim=(0, 1.02))
    axes.set(title="Error by coverage", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def tuning_course(
    attempts: Sequence[Attempt], importances: Mapping[str, float], finalists: Sequence[Finalist]
) -> Figure:
    """The trials over time, which hyperparameters decided, and how the best did on fresh seeds."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    course, shares, fresh = figure.subplots(1, 3, width_ratios=(5, 3, 3))
    complete = sorted((item for item in attempts if not item.pruned), key=lambda item: item.minutes)
    pruned = [item for item in attempts if item.pruned]
    for label, items, style in (
        ("to its end", complete, {"marker": "o", "color": "tab:blue"}),
        ("pruned", pruned, {"marker": "x", "color": "tab:gray"}),
        ("the default", [item for item in complete if item.default], {"marker": "D", "color": "tab:orange"}),
    ):
        course.scatter(
            [item.minutes for item in items],
            [item.accuracy for item in items],
            s=24,
            label=label,
            zorder=3,
            **style,
        )
    minutes = [item.minutes for item in complete]
    best = list(accumulate((item.accuracy for item in complete), max))
    course.step(minutes, best, where="post", color="tab:blue", lw=1, label="best so far")
    if complete:
        # A trial that learnt nothing would press all others together.
        lowest = float(np.quantile([item.accuracy for item in complete], 0.1))
        course.set_ylim(lowest - 0.5 * (max(best) - lowest) - 0.01, None)
    course.set(xlabel="minutes of search", ylabel="validation accuracy", title="Trials")
    course.legend(loc="lower right", fontsize=8)

    names = list(importances)[::-1]
    shares.barh(names, [importances[name] for name in names], color="tab:blue")
    shares.set(title="What decided", xlabel="share of the importance", xlim=(0, 1))
    if not names:
        shares.text(0.5, 0.5, "too few trials to tell", ha="center", transform=shares.transAxes)
        shares.set_yticks([])

    for position, finalist in enumerate(finalists):
        color = "tab:blue" if position else "tab:orange"
        fresh.plot([position] * len(finalist.accuracies), finalist.accuracies, "o", color=color, alpha=0.4)
        fresh.plot(position, finalist.mean, "_", color=color, ms=24, mew=2)
    fresh.set_xticks(range(len(finalists)), [finalist.label for finalist in finalists])
    fresh.margins(x=0.2)
    fresh.set(title="On fresh seeds", ylabel="validation accuracy")
    if not finalists:
        fresh.text(0.5, 0.5, "not tried yet", ha="center", transform=fresh.transAxes)
        fresh.set_yticks([])
    return figure


def _sides(evaluation: Evaluation, champion: Evaluation | None) -> list[tuple[str, Evaluation, str]]:
    sides = [("candidate", evaluation, _CANDIDATE)]
    return sides if champion is None else [*sides, ("champion", champion, _CHAMPION)]
