import pytest

from image_classifier.evaluation.held_out import held_out_from_json, held_out_images, held_out_to_json
from tests.conftest import COLORS, color_images, color_probabilities


@pytest.mark.parametrize(("count", "expected"), [(16, ["red", "green", "blue", "white"]), (2, ["red", "white"])])
def test_held_out_images_are_evenly_spaced_and_survive_storage(count, expected):
    chosen = held_out_images(color_images(), list(COLORS), color_probabilities(), count)
    assert [image.label for image in chosen] == expected
    assert held_out_from_json(held_out_to_json(chosen).encode()) == chosen
