"""Occlusion maps."""

import io

import numpy as np
import pytest
from PIL import Image

from image_classifier.serving.protocols.explain import occlusion_map, render_heat_map
from tests.serving.apps import make_client

SIZE = 32


def image_with_a_spot(top, left):
    image = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    image[top : top + 4, left : left + 4] = 255
    return image


def detects_spots(images):
    """A model of two classes; the share of white pixels is the probability of the second."""
    share = np.minimum((images > 128).mean(axis=(1, 2, 3)) * (SIZE / 4) ** 2, 1).astype(np.float32)
    return np.stack([1 - share, share], axis=1)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (10, 20), (28, 28), (0, 28)])
def test_the_probability_drops_only_where_the_object_is_hidden(top, left):
    occlusion = occlusion_map(detects_spots, image_with_a_spot(top, left))
    for row, down in enumerate(occlusion.offsets):
        for column, right in enumerate(occlusion.offsets):
            apart = (
                top + 4 <= down or down + occlusion.side <= top or left + 4 <= right or right + occlusion.side <= left
            )
            assert (occlusion.drops[row, column] > 0) == (not apart)


@pytest.mark.parametrize("size", [8, 9, 28, 32, 45, 224])
def test_the_squares_cover_images_of_every_size(size):
    occlusion = occlusion_map(
        lambda images: np.full((len(images), 2), 0.5, np.float32), np.zeros((size, size, 3), np.uint8)
    )
    assert occlusion.offsets[0] == 0
    assert occlusion.offsets[-1] + occlusion.side == size
    assert all(b - a <= occlusion.side for a, b in zip(occlusion.offsets, occlusion.offsets[1:], strict=False))


def test_the_heat_map_is_yellow_over_the_object_and_violet_elsewhere():
    occlusion = occlusion_map(detects_spots, image_with_a_spot(4, 4))
    overlay = np.asarray(Image.open(io.BytesIO(render_heat_map(occlusion, SIZE))))
    assert overlay.shape == (256, 256, 4)
    red, green, blue, opacity = overlay.transpose(2, 0, 1)
    assert (red[40:60, 40:60].mean() > 200, blue[40:60, 40:60].mean() < 80) == (True, True)
    assert (green[128:].max() < 20, blue[128:].min() > 70) == (True, True)
    assert (opacity[40:60, 40:60].mean() > 150, opacity[128:].max()) == (True, 60)


def test_the_heat_map_is_transparent_if_no_square_has_an_effect():
    occlusion = occlusion_map(lambda images: np.full((len(images), 2), 0.5, np.float32), image_with_a_spot(0, 0))
    assert np.asarray(Image.open(io.BytesIO(render_heat_map(occlusion, SIZE))))[..., 3].max() == 0


@pytest.fixture
def client(model):
    return make_client(model)


def test_the_response_is_that_of_predict_with_a_map(client, pngs):
    explained = client.post("/explain", data=pngs["green"]).json
    predicted = client.post("/predict", data=pngs["green"]).json["predictions"][0]
    assert {name: explained[name] for name in ("label", "probability", "top")} == {
        name: predicted[name] for name in ("label", "probability", "top")
    }
    explanation = explained["explanation"]
    squares = len(explanation["offsets"])
    assert np.shape(explanation["drops"]) == (squares, squares)


def test_the_response_may_be_a_png(client, pngs):
    response = client.post("/explain?format=png", data=pngs["green"])
    assert response.content_type == "image/png"
    assert Image.open(io.BytesIO(response.data)).mode == "RGBA"


def test_another_format_and_several_images_are_rejected(client, pngs):
    response = client.post("/explain?format=gif", data=pngs["red"])
    assert (response.status_code, response.json["error"]) == (400, "format must be json or png, not 'gif'")
    form = {"a": (io.BytesIO(pngs["red"]), "a.png"), "b": (io.BytesIO(pngs["red"]), "b.png")}
    response = client.post("/explain", data=form)
    assert (response.status_code, response.json["code"]) == (400, "several_images")
