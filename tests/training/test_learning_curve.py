import subprocess
import sys

import pytest

from image_classifier.training.learning_curve import ReportPoint, plot_learning_curve

HISTORY = [ReportPoint(number, number * 5.0, 1 / number, 2 / number, 3 / number, 0.9) for number in (1, 2, 3)]


def test_a_report_point_is_logged_without_its_number():
    assert HISTORY[0].metrics == {
        "seconds": 5.0,
        "learning_rate": 1.0,
        "train_loss": 2.0,
        "validation_loss": 3.0,
        "validation_accuracy": 0.9,
    }


def test_the_plot_shows_both_losses_and_the_accuracy_over_seconds():
    figure = plot_learning_curve(HISTORY)
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    assert lines.keys() == {"training loss", "validation loss", "validation accuracy"}
    assert lines["validation loss"].get_xydata().tolist() == [[5, 3], [10, 1.5], [15, 1]]


@pytest.mark.slow
def test_the_learning_curve_needs_no_pytorch():
    code = "import sys, image_classifier.training as t; t.plot_learning_curve; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
