"""The learning curve of a training: its report points and their plot. Needs no PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from matplotlib.figure import Figure

REPORT_POINTS = 12
"""Number of report points of a training, at even shares of its budget."""

_FIGURE_INCHES = (6.0, 5.0)


@dataclass(frozen=True)
class ReportPoint:
    """Metrics of a training at one point of its budget."""

    number: int
    """1, 2, …"""
    seconds: float
    """Seconds since the first step."""
    learning_rate: float
    """Fraction of the initial learning rates."""
    train_loss: float
    """Mean since the previous report point, with label smoothing and augmentation."""
    validation_loss: float
    validation_accuracy: float

    @property
    def metrics(self) -> dict[str, float]:
        """Every value except the number, by the name under which it is logged."""
        return {name: value for name, value in asdict(self).items() if name != "number"}


OnReport = Callable[[ReportPoint], None]
"""Called with each report point as soon as it is measured."""


def plot_learning_curve(history: Sequence[ReportPoint]) -> Figure:
    """Plot training loss, validation loss and validation accuracy over the seconds of training."""
    figure = Figure(figsize=_FIGURE_INCHES, layout="constrained")
    seconds = [point.seconds for point in history]
    loss = figure.add_subplot()
    loss.plot(seconds, [point.train_loss for point in history], "C0", label="training loss")
    loss.plot(seconds, [point.validation_loss for point in history], "C0--", label="validation loss")
    loss.set(xlabel="seconds of training", ylabel="loss", title="Learning curve")
    accuracy = loss.twinx()
    accuracy.plot(seconds, [point.validation_accuracy for point in history], "C1", label="validation accuracy")
    accuracy.set(ylabel="accuracy", ylim=(0, 1))
    figure.legend(loc="outside lower center", ncols=3)
    return figure
