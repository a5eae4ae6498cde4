"""Heat maps of predictions: by occlusion, and by the activation maps of real ONNX models."""

import io

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from image_classifier.backbones.feature_graph import FEATURES, FeatureGraph, FeatureMap, add_classifier
from image_classifier.package.model import Graph, Model
from image_classifier.package.package import encode_png, write_package
from image_classifier.serving.protocols.explain import explain_by_activation_map, explain_by_occlusion, render_heat_map
from tests.conftest import COLORS
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
    occlusion = explain_by_occlusion(detects_spots, image_with_a_spot(top, left))
    for row, down in enumerate(occlusion.offsets):
        for column, right in enumerate(occlusion.offsets):
            apart = (
                top + 4 <= down or down + occlusion.side <= top or left + 4 <= right or right + occlusion.side <= left
            )
            assert (occlusion.drops[row, column] > 0) == (not apart)


@pytest.mark.parametrize("size", [8, 9, 28, 32, 45, 224])
def test_the_squares_cover_images_of_every_size(size):
    occlusion = explain_by_occlusion(
        lambda images: np.full((len(images), 2), 0.5, np.float32), np.zeros((size, size, 3), np.uint8)
    )
    assert occlusion.offsets[0] == 0
    assert occlusion.offsets[-1] + occlusion.side == size
    assert all(b - a <= occlusion.side for a, b in zip(occlusion.offsets, occlusion.offsets[1:], strict=False))


def test_the_heat_map_is_yellow_over_the_object_and_violet_elsewhere():
    occlusion = explain_by_occlusion(detects_spots, image_with_a_spot(4, 4))
    overlay = np.asarray(Image.open(io.BytesIO(render_heat_map(occlusion, SIZE))))
    assert overlay.shape == (256, 256, 4)
    red, green, blue, opacity = overlay.transpose(2, 0, 1)
    assert (red[40:60, 40:60].mean() > 200, blue[40:60, 40:60].mean() < 80) == (True, True)
    assert (green[128:].max() < 20, blue[128:].min() > 70) == (True, True)
    assert (opacity[40:60, 40:60].mean() > 150, opacity[128:].max()) == (True, 60)


def test_the_heat_map_is_transparent_if_no_square_has_an_effect():
    occlusion = explain_by_occlusion(lambda images: np.full((len(images), 2), 0.5, np.float32), image_with_a_spot(0, 0))
    assert np.asarray(Image.open(io.BytesIO(render_heat_map(occlusion, SIZE))))[..., 3].max() == 0


def classifies_by_color() -> bytes:
    """A model on a backbone whose last map are the pixels, so that each pixel is evidence for the nearest colors."""
    pixels = FeatureMap("pixels", 3, SIZE, SIZE)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["float", "white"], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["pixels"], perm=[0, 3, 1, 2]),
            helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], [FEATURES]),
        ],
        "pixels",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array(255, np.float32), "white")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    weight = 40 * np.array(list(COLORS.values()), np.float32).T / 255
    bias = -weight.T.sum(axis=1) / 2
    features = FeatureGraph(model, SIZE, 3, maps=(pixels,))
    content: bytes = add_classifier(features, weight, bias, 2.0).SerializeToString()
    return content


@pytest.fixture(scope="module")
def mapping_model(tmp_path_factory):
    content = classifies_by_color()
    images = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    golden = (images, ["red"], Graph(content, 1).probabilities(images))
    folder = tmp_path_factory.mktemp("mapping") / "package"
    package = write_package(
        folder, model=content, classes=list(COLORS), image_size=SIZE, provenance={}, golden=golden, reference={}
    )
    return Model.load(package, threads=1)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (10, 20), (28, 28), (0, 28)])
def test_without_a_square_of_the_activation_map_the_probability_is_that_of_the_image_without_it(
    mapping_model, top, left
):
    """The pixels of the black background are no evidence, so that removing evidence is to paint the square black."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[top : top + 4, left : left + 4, 0] = 255
    probabilities, maps = mapping_model.probabilities_and_activation_maps(image[np.newaxis])
    explanation = explain_by_activation_map(probabilities[0], maps[0], SIZE)
    predicted, squares = probabilities[0].argmax(), []
    for down in explanation.offsets:
        for right in explanation.offsets:
            hidden = image.copy()
            hidden[down : down + explanation.side, right : right + explanation.side] = 0
            squares.append(hidden)
    expected = probabilities[0, predicted] - mapping_model.probabilities(np.stack(squares))[:, predicted]
    np.testing.assert_allclose(explanation.drops.ravel(), expected, atol=1e-5)
    assert explanation.drops.max() > 0.01


@pytest.mark.parametrize("size", [8, 28, 45, 224, 260])
@pytest.mark.parametrize("cells", [1, 7, 9])
def test_both_methods_judge_the_same_squares(size, cells):
    uniform = np.full(2, 0.5, np.float32)
    occlusion = explain_by_occlusion(
        lambda images: np.stack([uniform] * len(images)), np.zeros((size, size, 3), np.uint8)
    )
    mapped = explain_by_activation_map(uniform, np.zeros((2, cells, cells), np.float32), size)
    assert (mapped.side, mapped.offsets, mapped.drops.shape) == (
        occlusion.side,
        occlusion.offsets,
        occlusion.drops.shape,
    )
    assert not mapped.drops.any()


def test_extreme_activations_and_probabilities_have_finite_drops():
    maps = np.full((3, 7, 7), 1e5, np.float32)
    maps[1] = -1e5
    drops = explain_by_activation_map(np.array([1, 0, 0], np.float32), maps, 224).drops
    assert np.isfinite(drops).all()
    assert (np.abs(drops) <= 1).all()


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


@pytest.fixture
def mapping_client(mapping_model):
    return make_client(mapping_model)


def red_spot():
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[2:6, 20:24, 0] = 255
    return encode_png(image)


def test_a_model_with_activation_maps_explains_by_them_unless_occlusion_is_requested(mapping_client):
    responses = {
        query: mapping_client.post(f"/explain{query}", data=red_spot())
        for query in ("", "?method=activation_map", "?method=occlusion")
    }
    explanations = {query: response.json["explanation"] for query, response in responses.items()}
    methods = {query: explanation.pop("method") for query, explanation in explanations.items()}
    assert list(methods.values()) == ["activation_map", "activation_map", "occlusion"]
    assert [response.headers["X-Explanation-Method"] for response in responses.values()] == list(methods.values())
    assert explanations[""] == explanations["?method=activation_map"]
    mapped, occluded = explanations[""], explanations["?method=occlusion"]
    assert mapped.keys() == occluded.keys()
    assert {key: mapped[key] for key in ("square", "offsets", "image_size")} == {
        key: occluded[key] for key in ("square", "offsets", "image_size")
    }
    largest = {np.argmax(explanation["drops"]) for explanation in (mapped, occluded)}
    assert len(largest) == 1


def test_an_activation_map_takes_one_prediction_and_occlusion_one_for_each_square(mapping_client):
    def predicted_images():
        metrics = mapping_client.get("/metrics").text
        return sum(
            float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("image_classifier_images_total")
        )

    counts = [predicted_images()]
    for method in ("activation_map", "occlusion"):
        explanation = mapping_client.post(f"/explain?method={method}", data=red_spot()).json["explanation"]
        counts.append(predicted_images())
    squares = len(explanation["offsets"]) ** 2
    assert np.diff(counts).tolist() == [1, 1 + squares]


def test_the_png_of_an_activation_map_is_yellow_over_the_evidence(mapping_client):
    response = mapping_client.post("/explain?format=png", data=red_spot())
    assert response.headers["X-Explanation-Method"] == "activation_map"
    overlay = np.asarray(Image.open(io.BytesIO(response.data)))
    red, _, blue, _ = overlay.transpose(2, 0, 1)
    assert (red[16:48, 160:192].mean() > 150, blue[16:48, 160:192].mean() < 100) == (True, True)
    assert red[160:, :96].max() < 90


def test_a_model_without_activation_maps_explains_by_occlusion_alone(client, pngs):
    response = client.post("/explain", data=pngs["red"])
    assert (response.json["explanation"]["method"], response.headers["X-Explanation-Method"]) == ("occlusion",) * 2
    response = client.post("/explain?method=activation_map", data=pngs["red"])
    message = "this model returns no activation maps; leave out method, or set it to occlusion"
    assert (response.status_code, response.json["error"]) == (400, message)


def test_an_unknown_method_is_rejected(mapping_client):
    response = mapping_client.post("/explain?method=lime", data=red_spot())
    message = "method must be occlusion or activation_map, not 'lime'"
    assert (response.status_code, response.json["code"], response.json["error"]) == (400, "invalid_parameter", message)
