"""The step `data`: what it reports."""

import pytest

from image_classifier.settings import Settings
from image_classifier.steps.data import data
from tests.datasets.samples import files, write
from tests.steps.chain import Lines


def report_of(tmp_path, contents, **options):
    lines = Lines()
    data(Settings(home=tmp_path / "home", data=str(write(tmp_path / "pets", contents))), lines, **options)
    return lines


PARTS = (
    files("owl", 1200, "train/", side=8)
    | files("dog eel", 5, "train/", 5000, side=8)
    | files("dog", 2, "val/", 6000, side=8)
    | files("owl dog eel", 3, "test/", 7000, side=8)
)


def test_the_classes_are_listed_with_the_images_of_each_part_and_the_smallest_last(tmp_path):
    assert report_of(tmp_path, PARTS)[-4:] == [
        "    training  validation        test  class",
        "       1,200           0           3  owl",
        "           5           2           3  dog",
        "           5           0           3  eel",
    ]


def test_without_a_validation_part_the_table_has_no_column_of_it(tmp_path):
    table = report_of(tmp_path, files("owl dog", 6))[-3:]
    assert table[0].split() == ["training", "test", "class"]
    assert [sum(map(int, line.split()[:-1])) for line in table[1:]] == [6, 6]


def test_of_many_classes_the_largest_and_the_smallest_are_listed(tmp_path):
    contents = {}
    for number in range(30):
        contents |= files(f"class-{number:02}", 2 + number, seed=100 * number, side=8)
    table = report_of(tmp_path, contents)[-22:]
    assert [line.split()[-1] for line in table[1:11]] == [f"class-{number:02}" for number in range(29, 19, -1)]
    assert table[11].split() == ["…", "…", "10", "classes", "between"]
    assert [line.split()[-1] for line in table[12:]] == [f"class-{number:02}" for number in range(9, -1, -1)]


@pytest.mark.parametrize(("options", "times"), [({}, 1), ({"image_size": 12}, 0)])
def test_what_was_skipped_is_reported_for_training_and_not_again_for_a_model(tmp_path, options, times):
    lines = report_of(tmp_path, files() | {"cat/bad.png": b"x"}, **options)
    assert sum("bad.png" in line for line in lines) == times
    assert len([line for line in lines if line.startswith("data ")]) == 1
