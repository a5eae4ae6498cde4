"""What an image was seen by."""

import io

import numpy as np
import pytest
from PIL import Image

from image_classifier.package.identity import Identity
from image_classifier.serving.protocols.explain import heat_png, occlusion_map
from image_classifier.serving.web.app import create_app
from image_classifier.settings import Settings

SIZE = 32


def image_with_a_spot(top, left):
    image = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    image[top : top + 4, left : left + 4] = 255
    return image


def knows_spots(images):
    """A model for which the share of white pixels is the probability of the second of two classes."""
    share = np.minimum((images > 128).mean(axis=(1, 2, 3)) * (SIZE / 4) ** 2, 1).astype(np.float32)
    return np.stack([1 - share, share], axis=1)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (10, 20), (28, 28), (0, 28)])
def test_the_probability_falls_where_the_object_is_hidden_and_nowhere_else(top, left):
    found = occlusion_map(knows_spots, image_with_a_spot(top, left))
    for row, down in enumerate(found.offsets):
        for column, right in enumerate(found.offsets):
            apart = (
                top + 4 <= down or down + found.side <= top or left + 4 <= right or right + found.side <= left
            )
            assert (found.drops[row, column] > 0) == (not apart)


@pytest.mark.parametrize("size", [8, 9, 28, 32, 45, 224])
def test_the_squares_cover_images_of_every_size(size):
    found = occlusion_map(
        lambda images: np.full((len(images), 2), 0.5, np.float32), np.zeros((size, size, 3), np.uint8)
    )
    assert found.offsets[0] == 0
    assert found.offsets[-1] + found.side == size
    assert all(b - a <= found.side for a, b in zip(found.offsets, found.offsets[1:], strict=False))


def test_the_layer_is_yellow_over_the_object_and_violet_elsewhere():
    found = occlusion_map(knows_spots, image_with_a_spot(4, 4))
    layer = np.asarray(Image.open(io.BytesIO(heat_png(found, SIZE))))
    assert layer.shape == (256, 256, 4)
    red, green, blue, opacity = layer.transpose(2, 0, 1)
    assert (red[40:60, 40:60].mean() > 200, blue[40:60, 40:60].mean() < 80) == (True, True)
    assert (green[128:].max() < 20, blue[128:].min() > 70) == (True, True)
    assert (opacity[40:60, 40:60].mean() > 150, opacity[128:].max()) == (True, 60)


def test_an_image_in_which_nothing_matters_gives_a_clear_layer():
    found = occlusion_map(lambda images: np.full((len(images), 2), 0.5, np.float32), image_with_a_spot(0, 0))
    assert np.asarray(Image.open(io.BytesIO(heat_png(found, SIZE))))[..., 3].max() == 0


@pytest.fixture
def client(model):
    return create_app(Settings(), model, Identity.read(model.package, "colours")).test_client()


def test_the_answer_is_that_of_predict_with_a_map(client, pngs):
    explained = client.post("/explain", data=pngs["green"]).json
    predicted = client.post("/predict", data=pngs["green"]).json["predictions"][0]
    assert {name: explained[name] for name in ("label", "probability", "top")} == {
        name: predicted[name] for name in ("label", "probability", "top")
    }
    told = explained["explanation"]
    assert np.shape(told["drops"]) == (len(told["offsets"]), len(told["offsets"]))


def test_the_answer_may_be_a_picture(client, pngs):
    answer = client.post("/explain?format=png", data=pngs["green"])
    assert answer.content_type == "image/png"
    assert Image.open(io.BytesIO(answer.data)).mode == "RGBA"


def test_another_form_and_several_images_are_refused(client, pngs):
    answer = client.post("/explain?format=gif", data=pngs["red"])
    assert (answer.status_code, answer.json["error"]) == (400, "format is 'gif', but must be json or png")
    form = {"a": (io.BytesIO(pngs["red"]), "a.png"), "b": (io.BytesIO(pngs["red"]), "b.png")}
    answer = client.post("/explain", data=form)
    assert (answer.status_code, answer.json["code"]) == (400, "several_images")
