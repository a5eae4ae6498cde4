"""`POST /predict`: images in, labels and probabilities out.

The body is the bytes of one image, or a multipart form of one or many image files. The answer has one shape:

    {"predictions": [{"file": null, "label": "cat", "probability": 0.97,
                      "top": [{"label": "cat", "probability": 0.97}, …]}],
     "model": {"name", "version", "digest", "source_revision", "data_digest"},
     "milliseconds": {"decode": 0.6, "infer": 0.4}, "request_id": "…"}

`?top=3` asks for another number of classes than the setting `top`.
"""

import json
import time
from collections.abc import Sequence
from http import HTTPStatus

import numpy as np
from flask import Blueprint, Response, g, request

from image_classifier.errors import ImageError
from image_classifier.images import decode
from image_classifier.package import Images, Model, Probabilities
from image_classifier.serving.errors import RequestError
from image_classifier.serving.identity import Identity
from image_classifier.serving.uploads import Upload, read_uploads
from image_classifier.settings import Settings

_DECIMALS = 6


def prediction_routes(settings: Settings, model: Model, identity: Identity) -> Blueprint:
    """The route that asks `model`."""
    routes = Blueprint("prediction", __name__)

    @routes.post("/predict")
    def predict() -> Response:
        top = _asked_top(request.args.get("top"), settings.top)
        uploads = read_uploads(request, settings.max_upload)
        started = time.perf_counter()
        images = _decoded(uploads, model.package.image_size, settings.max_pixels)
        decoded = time.perf_counter()
        probabilities = model.probabilities(images)
        inferred = time.perf_counter()
        answer = {
            "predictions": [
                {"file": upload.name, **ranking(row, model.classes, top)}
                for upload, row in zip(uploads, probabilities, strict=True)
            ],
            "model": identity.to_dict(),
            "milliseconds": {
                "decode": round((decoded - started) * 1e3, 3),
                "infer": round((inferred - decoded) * 1e3, 3),
            },
            "request_id": g.request_id,
        }
        return Response(json.dumps(answer, ensure_ascii=False) + "\n", mimetype="application/json")

    return routes


def ranking(probabilities: Probabilities, classes: Sequence[str], top: int) -> dict[str, object]:
    """The likeliest class of one image, float32 [K], and the `top` likeliest in order."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    entries = [
        {"label": classes[index], "probability": round(float(probabilities[index]), _DECIMALS)}
        for index in order
    ]
    return {**entries[0], "top": entries}


def _decoded(uploads: Sequence[Upload], size: int, max_pixels: int) -> Images:
    images = np.empty((len(uploads), size, size, 3), dtype=np.uint8)
    for number, upload in enumerate(uploads):
        try:
            images[number] = decode(upload.data, size, max_pixels)
        except ImageError as error:
            if upload.name is None:
                raise
            raise type(error)(f"{upload.name}: {error}") from error
    return images


def _asked_top(asked: str | None, default: int) -> int:
    if asked is None:
        return default
    if not (asked.isascii() and asked.isdigit() and len(asked) < 10 and int(asked) > 0):
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "invalid_parameter",
            f"top is {asked!r}, but must be a whole number from 1",
        )
    return int(asked)
