"""`POST /explain`: which part of an image a prediction depends on.

Two methods estimate by how much the probability of the predicted class drops without a square of the image:

    occlusion         A gray square slides over the image: one prediction for each of its places. (Zeiler and Fergus,
                      Visualizing and Understanding Convolutional Networks, 2014)
    activation_map    The evidence for each class that the model found in the square is removed: one prediction in all.
                      Only of models on a backbone that return class activation maps. (Zhou et al., Learning Deep
                      Features for Discriminative Localization, 2016)
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from flask import Blueprint, Response, g, request
from numpy.typing import NDArray
from PIL import Image

from image_classifier.package import Images, Probabilities
from image_classifier.serving.http.error_responses import bad_request
from image_classifier.serving.http.uploads import read_uploads
from image_classifier.serving.inference import ranked_prediction
from image_classifier.serving.service import Service

OCCLUSION, ACTIVATION_MAP = METHODS = "occlusion", "activation_map"
METHOD_HEADER = "X-Explanation-Method"
"""Header with the method; a PNG has no other place for it."""
_SQUARES_PER_SIDE = 4  # the square's side is the image's divided by this; its stride is half of its side
_PNG_SIDE = 256
_COLORS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
"""Violet (no effect) to yellow (largest effect): five colors of viridis, which the color-blind can distinguish."""
_MIN_OPACITY, _MAX_OPACITY = 60, 160  # of 255, so that the image stays visible below


class Explanation(NamedTuple):
    """The effect of each square of an image."""

    probabilities: Probabilities  # float32 [K] of the whole image
    drops: NDArray[np.floating]  # [R, R]: drop in probability of the predicted class without the square
    side: int  # side of the square, in pixels of the model's input
    offsets: tuple[int, ...]  # offsets of the squares from the top and from the left


def explain_by_occlusion(predict: Callable[[Images], Probabilities], image: Images) -> Explanation:
    """Explain the predicted class of an image, uint8 [S, S, 3], with one call of `predict` for all squares."""
    side, offsets = _squares(len(image))
    occluded = np.repeat(image[np.newaxis], 1 + len(offsets) ** 2, axis=0)
    gray = image.mean(axis=(0, 1)).round().astype(np.uint8)
    squares = [(top, left) for top in offsets for left in offsets]
    for copy, (top, left) in zip(occluded[1:], squares, strict=True):
        copy[top : top + side, left : left + side] = gray
    whole, *rest = predict(occluded)
    predicted = int(whole.argmax())
    drops = whole[predicted] - np.array([row[predicted] for row in rest])
    return Explanation(whole, drops.reshape(len(offsets), len(offsets)), side, offsets)


def explain_by_activation_map(probabilities: Probabilities, maps: NDArray[np.float32], image_size: int) -> Explanation:
    """Explain the predicted class of an image from its probabilities, [K], and activation maps, [K, H, W].

    A logit is the mean over its map, plus a constant. So without a square, each logit lacks the part of the mean that
    the square covers.
    """
    side, offsets = _squares(image_size)
    _, height, width = maps.shape
    rows, columns = (_covered_cells(side, offsets, image_size, cells) for cells in (height, width))
    parts = rows @ maps.astype(np.float64) @ columns.T / (height * width)
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))[:, np.newaxis, np.newaxis] - parts
    without = np.exp(logits - logits.max(axis=0))
    predicted = int(probabilities.argmax())
    drops = probabilities[predicted] - without[predicted] / without.sum(axis=0)
    return Explanation(probabilities, drops, side, offsets)


def _squares(size: int) -> tuple[int, tuple[int, ...]]:
    """The side of the squares that cover an image, and their offsets."""
    side = max(2, round(size / _SQUARES_PER_SIDE))
    return side, tuple(sorted({*range(0, size - side + 1, side // 2), size - side}))


def _covered_cells(side: int, offsets: tuple[int, ...], size: int, cells: int) -> NDArray[np.float64]:
    """How much of each cell of a grid the squares cover along one axis, from 0 to 1, [R, cells]."""
    edges = np.arange(cells + 1) * size / cells
    starts = np.array(offsets)[:, np.newaxis]
    pixels = np.minimum(edges[1:], starts + side) - np.maximum(edges[:-1], starts)
    covered: NDArray[np.float64] = np.maximum(0, pixels) * cells / size
    return covered


def render_heat_map(explanation: Explanation, size: int) -> bytes:
    """A PNG overlay for the square that the model sees: violet, yellow at the largest drop.

    Fully transparent if no square has an effect.
    """
    heat, covered = np.zeros((2, size, size), dtype=np.float32)
    for row, top in enumerate(explanation.offsets):
        for column, left in enumerate(explanation.offsets):
            square = slice(top, top + explanation.side), slice(left, left + explanation.side)
            heat[square] += max(explanation.drops[row, column], 0)
            covered[square] += 1
    heat /= covered
    largest = float(heat.max())
    share = heat / max(largest, 1e-6)
    steps = np.linspace(0, 1, len(_COLORS))
    red_green_blue = [np.interp(share, steps, channel) for channel in _COLORS.T]
    opacity = _MIN_OPACITY + share * (_MAX_OPACITY - _MIN_OPACITY) if largest > 0 else share
    pixels = np.stack([*red_green_blue, opacity], axis=-1).round().astype(np.uint8)
    overlay = Image.fromarray(pixels).resize((_PNG_SIDE, _PNG_SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    overlay.save(buffer, format="PNG")
    return buffer.getvalue()


def explain_routes(service: Service) -> Blueprint:
    """The route /explain."""
    routes = Blueprint("explanation", __name__)
    options, package, model = service.options, service.package, service.inference.model

    def chosen_method() -> str:
        method = request.args.get("method", ACTIVATION_MAP if model.has_activation_map else OCCLUSION)
        if method not in METHODS:
            raise bad_request("invalid_parameter", f"method must be {' or '.join(METHODS)}, not {method!r}")
        if method == ACTIVATION_MAP and not model.has_activation_map:
            raise bad_request(
                "invalid_parameter",
                f"this model returns no activation maps; leave out method, or set it to {OCCLUSION}",
            )
        return method

    @routes.post("/explain")
    def explain() -> Response:
        form = request.args.get("format", "json")
        if form not in ("json", "png"):
            raise bad_request("invalid_parameter", f"format must be json or png, not {form!r}")
        method = chosen_method()
        uploads = read_uploads(request, options.max_upload)
        if len(uploads) != 1:
            raise bad_request("several_images", f"/explain takes one image, not {len(uploads)}")
        with service.inference.slot() as slot:
            images = slot.decode(uploads)
            if method == OCCLUSION:
                explanation = explain_by_occlusion(slot.predict_unmonitored, images[0])
            else:
                probabilities, maps = slot.predict_with_activation_maps(images)
                explanation = explain_by_activation_map(probabilities[0], maps[0], package.image_size)
        headers = {METHOD_HEADER: method}
        if form == "png":
            return Response(render_heat_map(explanation, package.image_size), mimetype="image/png", headers=headers)
        content = {
            **ranked_prediction(explanation.probabilities, package.classes, options.top),
            "explanation": {
                "method": method,
                "square": explanation.side,
                "offsets": explanation.offsets,
                "image_size": package.image_size,
                "drops": explanation.drops.round(6).tolist(),
            },
        }
        text = slot.to_json(content, service.identity.to_dict(), g.ids.request_id)
        return Response(text, mimetype="application/json", headers=headers)

    return routes
