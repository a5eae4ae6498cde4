"""The pictures of a run: learning curve, confusion matrix, reliability, worst mistakes.

Figures are made without pyplot, which keeps global state and would look for a display.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from image_classifier.datasets.dataset import Part
from image_classifier.evaluation import Evaluation
from image_classifier.package import Probabilities
from image_classifier.training import Epoch

_MOST_LABELLED_CLASSES = 30


def learning_curve(history: Sequence[Epoch]) -> Figure:
    """Loss and validation accuracy over the seconds of training."""
    figure = Figure(figsize=(7, 4), layout="constrained")
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
    side = min(14.0, 3.5 + 0.45 * len(classes))
    figure = Figure(figsize=(side, side * 0.9), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=f"Confusion on {evaluation.images:,} test images")
    if len(classes) <= _MOST_LABELLED_CLASSES:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), classes)
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


def reliability(evaluation: Evaluation) -> Figure:
    """Accuracy by confidence; a calibrated model lies on the diagonal. Dot areas show the images in a bin."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    counts, confidences, accuracies = zip(*evaluation.reliability, strict=True)
    axes.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    axes.plot(confidences, accuracies, color="tab:blue", lw=1)
    axes.scatter(confidences, accuracies, s=[10 + 400 * count / evaluation.images for count in counts])
    axes.set(
        xlabel="confidence",
        ylabel="accuracy",
        xlim=(0, 1),
        ylim=(0, 1.02),
        title=f"Reliability (calibration error {evaluation.calibration_error:.3f})",
    )
    return figure


def worst_mistakes(
    test: Part, evaluation: Evaluation, probabilities: Probabilities, most: int = 24
) -> Figure:
    """The wrong answers that were given with the highest confidence, as pictures."""
    wrong = np.flatnonzero(~evaluation.right)
    worst = wrong[np.argsort(-probabilities[wrong].max(axis=1))][:most]
    columns = 6
    rows = max(1, -(-len(worst) // columns))
    figure = Figure(figsize=(1.6 * columns, 2.1 * rows + 0.5), layout="constrained")
    figure.suptitle(f"Worst of {len(wrong):,} mistakes on {evaluation.images:,} test images")
    for position, index in enumerate(worst):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(test.images[index])
        axes.set_axis_off()
        predicted = evaluation.classes[evaluation.predictions[index]]
        true = evaluation.classes[evaluation.labels[index]]
        axes.set_title(f"{predicted} {probabilities[index].max():.0%}\nis {true}", fontsize=8)
    return figure
