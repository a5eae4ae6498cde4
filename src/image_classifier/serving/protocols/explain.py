"""`POST /explain`: which part of an image a prediction depends on, by occlusion.

Method: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2014. A gray square slides over the
image. Where it reduces the probability of the predicted class most, the model found its evidence.
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

_SQUARES_PER_SIDE = 4  # the square's side is the image's divided by this; its stride is half of its side
_PNG_SIDE = 256
_COLORS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
"""Violet (no effect) to yellow (largest effect): five colors of viridis, which the color-blind can distinguish."""
_MIN_OPACITY, _MAX_OPACITY = 60, 160  # of 255, so that the image stays visible below


class OcclusionMap(NamedTuple):
    """The effect of hiding each square of an image."""

    probabilities: Probabilities  # float32 [K] of the whole image
    drops: NDArray[np.float32]  # [R, R]: drop in probability of the predicted class with the square at row and column
    side: int  # side of the square, in pixels of the model's input
    offsets: tuple[int, ...]  # offsets of the squares from the top and from the left


def occlusion_map(predict: Callable[[Images], Probabilities], image: Images) -> OcclusionMap:
    """Explain the predicted class of an image, uint8 [S, S, 3], with one call of `predict` for all squares."""
    size = len(image)
    side = max(2, round(size / _SQUARES_PER_SIDE))
    offsets = tuple(sorted({*range(0, size - side + 1, side // 2), size - side}))
    occluded = np.repeat(image[np.newaxis], 1 + len(offsets) ** 2, axis=0)
    gray = image.mean(axis=(0, 1)).round().astype(np.uint8)
    squares = [(top, left) for top in offsets for left in offsets]
    for copy, (top, left) in zip(occluded[1:], squares, strict=True):
        copy[top : top + side, left : left + side] = gray
    whole, *rest = predict(occluded)
    predicted = int(whole.argmax())
    drops = whole[predicted] - np.array([row[predicted] for row in rest])
    return OcclusionMap(whole, drops.reshape(len(offsets), len(offsets)), side, offsets)


def render_heat_map(occlusion: OcclusionMap, size: int) -> bytes:
    """A PNG overlay for the center square of the image: violet, yellow at the largest drop.

    Fully transparent if no square has an effect.
    """
    heat, covered = np.zeros((2, size, size), dtype=np.float32)
    for row, top in enumerate(occlusion.offsets):
        for column, left in enumerate(occlusion.offsets):
            square = slice(top, top + occlusion.side), slice(left, left + occlusion.side)
            heat[square] += max(occlusion.drops[row, column], 0)
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
    options, package = service.options, service.package

    @routes.post("/explain")
    def explain() -> Response:
        form = request.args.get("format", "json")
        if form not in ("json", "png"):
            raise bad_request("invalid_parameter", f"format must be json or png, not {form!r}")
        uploads = read_uploads(request, options.max_upload)
        if len(uploads) != 1:
            raise bad_request("several_images", f"/explain takes one image, not {len(uploads)}")
        with service.inference.slot() as slot:
            occlusion = occlusion_map(slot.predict_unmonitored, slot.decode(uploads)[0])
        if form == "png":
            return Response(render_heat_map(occlusion, package.image_size), mimetype="image/png")
        content = {
            **ranked_prediction(occlusion.probabilities, package.classes, options.top),
            "explanation": {
                "square": occlusion.side,
                "offsets": occlusion.offsets,
                "image_size": package.image_size,
                "drops": occlusion.drops.round(6).tolist(),
            },
        }
        text = slot.to_json(content, service.identity.to_dict(), g.ids.request_id)
        return Response(text, mimetype="application/json")

    return routes
