"""`POST /predict`: images in, labels and probabilities out.

The body is the bytes of one image, or a multipart form of one or many image files. The answer has one shape:

    {"predictions": [{"file": null, "label": "cat", "probability": 0.97,
                      "top": [{"label": "cat", "probability": 0.97}, …]}],
     "model": {"name", "version", "digest", "source_revision", "data_digest"},
     "milliseconds": {"decode": 0.6, "infer": 0.4}, "request_id": "…"}

`?top=3` asks for another number of classes than the setting `top`.
"""

from collections.abc import Sequence

from flask import Blueprint, Response, g, request

from image_classifier.serving.errors import bad_request
from image_classifier.serving.identity import Identity
from image_classifier.serving.inference import Inference, ranking
from image_classifier.serving.uploads import Upload, read_uploads

PATH = "/predict"


class Predictions:
    """Answers about images."""

    def __init__(self, inference: Inference, identity: Identity, top: int) -> None:
        self._inference, self._top = inference, top
        self._model = identity.to_dict()

    def answer(self, uploads: Sequence[Upload], top: int | None, request_id: str) -> str:
        """The JSON text for a request's images; raises RequestError and ImageError."""
        with self._inference.turn() as turn:
            probabilities = turn.ask(turn.decode(uploads))
        classes = self._inference.model.classes
        predictions = [
            {"file": upload.name, **ranking(row, classes, top or self._top)}
            for upload, row in zip(uploads, probabilities, strict=True)
        ]
        return turn.answer({"predictions": predictions}, self._model, request_id)


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
