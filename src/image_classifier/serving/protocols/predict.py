"""`POST /predict`: images in, labels and probabilities out.

The body is one raw image, or a multipart form of one or more image files. The response always has one shape:

    {"predictions": [{"file": null, "label": "cat", "probability": 0.97,
                      "top": [{"label": "cat", "probability": 0.97}, …]}],
     "model": {"name", "version", "digest", "source_revision", "data_digest"},
     "milliseconds": {"decode": 0.6, "infer": 0.4}, "request_id": "…"}

`?top=3` overrides the number of classes in the setting `top`.
"""

from flask import Blueprint, Response, g, request

from image_classifier.serving.http.error_responses import bad_request
from image_classifier.serving.http.hot_path import PREDICT_PATH
from image_classifier.serving.http.uploads import read_uploads
from image_classifier.serving.service import Service


def predict_routes(service: Service) -> Blueprint:
    """The route /predict."""
    routes = Blueprint("prediction", __name__)

    @routes.post(PREDICT_PATH)
    def predict() -> Response:
        top = _parse_top(request.args.get("top"))
        uploads = read_uploads(request, service.options.max_upload)
        text = service.predict.respond(uploads, top, g.ids.request_id)
        return Response(text, mimetype="application/json")

    return routes


def _parse_top(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise bad_request("invalid_parameter", f"top must be a positive integer, not {text!r}")
    return int(text)
