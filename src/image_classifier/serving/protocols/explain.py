"""`POST /explain`: which part of an image decided, by hiding one part after the other.

The occlusion map of Zeiler and Fergus (Visualizing and Understanding Convolutional Networks, 2014): a grey square
slides over the image, and where the probability of the answer falls most, there lay what it was seen by.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from flask import Blueprint, Response, g, request
from numpy.typing import NDArray
from PIL import Image

from image_classifier.package import Identity, Images, Probabilities
from image_classifier.serving.http.error_responses import bad_request
from image_classifier.serving.http.uploads import read_uploads
from image_classifier.serving.inference import Inference, ranking
from image_classifier.settings import Settings

_PARTS = 4
"""The square's side is the image's, divided by this; it moves by half of its side."""
_PNG_SIDE = 256
_COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
"""From what did not matter to what decided: five of viridis, which is read on any image and without seeing red."""
_LEAST_OPACITY, _MOST_OPACITY = 60, 160
"""Of 255, from what did not matter to what decided: the image stays visible below."""


class OcclusionMap(NamedTuple):
    """What hiding a square costs."""

    probabilities: Probabilities
    """float32 [K] of the whole image."""
    drops: NDArray[np.float32]
    """[R, R]: the fall in probability of the likeliest class with the square at row and column."""
    side: int
    """Of the square, in pixels of the image that the model sees."""
    offsets: tuple[int, ...]
    """Of the squares from the top, and from the left."""


def occlusion_map(ask: Callable[[Images], Probabilities], image: Images) -> OcclusionMap:
    """Explain the likeliest class of an image uint8 [S, S, 3]; `ask` is asked once, about all squares."""
    size = len(image)
    side = max(2, round(size / _PARTS))
    offsets = tuple(sorted({*range(0, size - side + 1, side // 2), size - side}))
    hidden = np.repeat(image[np.newaxis], 1 + len(offsets) ** 2, axis=0)
    grey = image.mean(axis=(0, 1)).round().astype(np.uint8)
    squares = [(top, left) for top in offsets for left in offsets]
    for copy, (top, left) in zip(hidden[1:], squares, strict=True):
        copy[top : top + side, left : left + side] = grey
    whole, *rest = ask(hidden)
    answer = int(whole.argmax())
    drops = whole[answer] - np.array([row[answer] for row in rest])
    return OcclusionMap(whole, drops.reshape(len(offsets), len(offsets)), side, offsets)


def heat_png(found: OcclusionMap, size: int) -> bytes:
    """The map as a layer to lay over the middle square of the image: violet, and yellow at the largest drop.

    Where nothing matters it is clear.
    """
    heat, covered = np.zeros((2, size, size), dtype=np.float32)
    for row, top in enumerate(found.offsets):
        for column, left in enumerate(found.offsets):
            heat[top : top + found.side, left : left + found.side] += max(found.drops[row, column], 0)
            covered[top : top + found.side, left : left + found.side] += 1
    heat /= covered
    most = float(heat.max())
    share = heat / max(most, 1e-6)
    steps = np.linspace(0, 1, len(_COLOURS))
    red_green_blue = [np.interp(share, steps, channel) for channel in _COLOURS.T]
    opacity = _LEAST_OPACITY + share * (_MOST_OPACITY - _LEAST_OPACITY) if most > 0 else share
    pixels = np.stack([*red_green_blue, opacity], axis=-1).round().astype(np.uint8)
    layer = Image.fromarray(pixels).resize((_PNG_SIDE, _PNG_SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    layer.save(buffer, format="PNG")
    return buffer.getvalue()


def explanation_routes(settings: Settings, inference: Inference, identity: Identity) -> Blueprint:
    routes = Blueprint("explanation", __name__)
    package = inference.model.package

    @routes.post("/explain")
    def explain() -> Response:
        form = request.args.get("format", "json")
        if form not in ("json", "png"):
            raise bad_request("invalid_parameter", f"format is {form!r}, but must be json or png")
        uploads = read_uploads(request, settings.max_upload)
        if len(uploads) != 1:
            raise bad_request("several_images", f"explain takes one image, not {len(uploads)}")
        with inference.turn() as turn:
            found = occlusion_map(turn.ask_aside, turn.decode(uploads)[0])
        if form == "png":
            return Response(heat_png(found, package.image_size), mimetype="image/png")
        content = {
            **ranking(found.probabilities, package.classes, settings.top),
            "explanation": {
                "square": found.side,
                "offsets": found.offsets,
                "image_size": package.image_size,
                "drops": found.drops.round(6).tolist(),
            },
        }
        return Response(turn.answer(content, identity.to_dict(), g.name.id), mimetype="application/json")

    return routes
