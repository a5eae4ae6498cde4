"""`POST /predict`: images in, labels and probabilities out.

The body is the bytes of one image, or a multipart form of one or many image files. The answer has one shape:

    {"predictions": [{"file": null, "label": "cat", "probability": 0.97,
                      "top": [{"label": "cat", "probability": 0.97}, …]}],
     "model": {"name", "version", "digest", "source_revision", "data_digest"},
     "milliseconds": {"decode": 0.6, "infer": 0.4}, "request_id": "…"}

`?top=3` asks for another number of classes than the setting `top`.
"""

import json
from http import HTTPStatus

from flask import Blueprint, Response, g, request

from image_classifier.serving.errors import RequestError
from image_classifier.serving.identity import Identity
from image_classifier.serving.inference import Inference, ranking
from image_classifier.serving.uploads import read_uploads
from image_classifier.settings import Settings


def prediction_routes(settings: Settings, inference: Inference, identity: Identity) -> Blueprint:
    """The route that asks the model."""
    routes = Blueprint("prediction", __name__)

    @routes.post("/predict")
    def predict() -> Response:
        top = _asked_top(request.args.get("top"), settings.top)
        uploads = read_uploads(request, settings.max_upload)
        with inference.turn() as turn:
            probabilities = turn.ask(turn.decode(uploads))
        classes = inference.model.classes
        answer = {
            "predictions": [
                {"file": upload.name, **ranking(row, classes, top)}
                for upload, row in zip(uploads, probabilities, strict=True)
            ],
            "model": identity.to_dict(),
            "milliseconds": turn.milliseconds,
            "request_id": g.request_id,
        }
        return Response(json.dumps(answer, ensure_ascii=False) + "\n", mimetype="application/json")

    return routes


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
