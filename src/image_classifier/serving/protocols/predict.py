"""`POST /predict`: images in, labels and probabilities out.

The body is the bytes of one image, or a multipart form of one or many image files. The answer has one shape:

    {"predictions": [{"file": null, "label": "cat", "probability": 0.97,
                      "top": [{"label": "cat", "probability": 0.97}, …]}],
     "model": {"name", "version", "digest", "source_revision", "data_digest"},
     "milliseconds": {"decode": 0.6, "infer": 0.4}, "request_id": "…"}

`?top=3` asks for another number of classes than the setting `top`.
"""

from flask import Blueprint, Response, g, request

from image_classifier.serving.http.error_responses import bad_request
from image_classifier.serving.http.hot_path import PATH
from image_classifier.serving.http.uploads import read_uploads
from image_classifier.serving.inference import Predictions


def prediction_routes(predictions: Predictions, max_upload: int) -> Blueprint:
    """The route that asks the model."""
    routes = Blueprint("prediction", __name__)

    @routes.post(PATH)
    def predict() -> Response:
        top = _asked_top(request.args.get("top"))
        uploads = read_uploads(request, max_upload)
        return Response(predictions.answer(uploads, top, g.name.id), mimetype="application/json")

    return routes


def _asked_top(asked: str | None) -> int | None:
    if asked is None:
        return None
    if not (asked.isascii() and asked.isdigit() and len(asked) < 10 and int(asked) > 0):
        raise bad_request("invalid_parameter", f"top is {asked!r}, but must be a whole number from 1")
    return int(asked)
