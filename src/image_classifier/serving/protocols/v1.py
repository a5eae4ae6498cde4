"""KServe's V1 protocol: `POST /v1/models/<name>:predict` with instances.

An instance is {"b64": "…"}, an encoded image, or the pixels [S][S][3] of one, from 0 to 255.
"""

from typing import Any

import numpy as np
from flask import Blueprint, request

from image_classifier.package import Identity, Images
from image_classifier.serving.http.error_responses import invalid_request
from image_classifier.serving.http.request_body import Upload, read_body
from image_classifier.serving.inference import Inference, Turn, ranking
from image_classifier.serving.protocols.tensors import from_base64, parse_json, pixels
from image_classifier.settings import Settings


def v1_routes(settings: Settings, inference: Inference, identity: Identity) -> Blueprint:
    routes = Blueprint("kserve_v1", __name__)

    @routes.get("/v1/models")
    def models() -> dict[str, list[str]]:
        return {"models": [identity.name]}

    @routes.get("/v1/models/<name>")
    def model(name: str) -> dict[str, Any]:
        identity.check_name(name, settings.name)
        return {"name": name, "ready": True}

    @routes.post("/v1/models/<name>:predict")
    def predict(name: str) -> dict[str, Any]:
        identity.check_name(name, settings.name)
        body = read_body(request.environ, settings.max_upload)
        with inference.turn() as turn:
            probabilities = turn.ask(_images(body, turn, inference.model.package.image_size))
        classes = inference.model.classes
        return {"predictions": [ranking(row, classes, settings.top) for row in probabilities]}

    return routes


def _images(body: bytes, turn: Turn, size: int) -> Images:
    content = parse_json(body)
    # TensorFlow Serving, whose protocol this is, takes both words.
    instances = content.get("instances", content.get("inputs"))
    if not isinstance(instances, list) or not instances:
        raise invalid_request('the body must be {"instances": […]} with at least one instance')
    images = np.empty((len(instances), size, size, 3), dtype=np.uint8)
    encoded: dict[int, Upload] = {}
    for number, instance in enumerate(instances):
        what = f"instance {number}"
        if isinstance(instance, dict):
            encoded[number] = Upload(what, from_base64(instance.get("b64"), f"b64 of {what}"))
        else:
            images[number] = pixels(instance, (size, size, 3), what)
    if encoded:
        images[list(encoded)] = turn.decode(list(encoded.values()))
    return images
