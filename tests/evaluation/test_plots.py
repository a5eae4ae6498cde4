import warnings

import pytest

from image_classifier.evaluation.plots import plot_confusion_matrix, plot_labels
from tests.evaluation.test_evaluation import evaluation_of


@pytest.mark.parametrize("name", ["cat", "Corn_(maize)", "café", "кошка", "γάτα", "$x^2$ \\frac{", " ", "x" * 32])
def test_a_name_that_the_font_has_is_the_label_of_its_class(name):
    assert plot_labels(["dog", name]) == ["dog", name]


@pytest.mark.parametrize("name", ["日本語", "हिन्दी", "cat 🎉", "عربي", "חתול", "x" * 33])
def test_a_name_that_cannot_be_drawn_is_replaced_by_the_position_of_its_class(name):
    assert plot_labels(["dog", name]) == ["dog", "class 1"]


def test_very_many_classes_have_no_labels():
    assert plot_labels([f"class {number}" for number in range(31)]) == []


def test_a_confusion_matrix_of_odd_names_is_drawn_without_warnings(tmp_path):
    classes = ("日本語", "x" * 255, "y" * 250, "🎉", "$\\frac{$", "cat")
    evaluation = evaluation_of(list(range(6)), [1, 0, 2, 3, 4, 5], classes=classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion_matrix(evaluation).savefig(tmp_path / "matrix.svg")
    assert (tmp_path / "matrix.svg").stat().st_size > 1000
