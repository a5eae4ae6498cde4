"""KServe's V1 protocol: `POST /v1/models/<name>:predict` with instances.

An instance is {"b64": "…"}, an encoded image, or pixels, [S][S][3] numbers from 0 to 255.
"""

from typing import Any

import numpy as np
from flask import Blueprint, request

from image_classifier.package import Images
from image_classifier.serving.http.error_responses import invalid_request
from image_classifier.serving.http.request_body import Upload, read_body
from image_classifier.serving.inference import Slot, ranked_prediction
from image_classifier.serving.protocols.tensors import decode_base64, parse_json, parse_pixels
from image_classifier.serving.service import Service


def v1_routes(service: Service) -> Blueprint:
    """The routes below /v1."""
    routes = Blueprint("kserve_v1", __name__)
    options, package = service.options, service.package

    @routes.get("/v1/models")
    def models() -> dict[str, list[str]]:
        return {"models": [service.identity.name]}

    @routes.get("/v1/models/<name>")
    def model(name: str) -> dict[str, Any]:
        service.check_model_name(name)
        return {"name": name, "ready": True}

    @routes.post("/v1/models/<name>:predict")
    def predict(name: str) -> dict[str, Any]:
        service.check_model_name(name)
        body = read_body(request.environ, options.max_upload)
        with service.inference.slot() as slot:
            probabilities = slot.predict(_images(body, slot, package.image_size))
        return {"predictions": [ranked_prediction(row, package.classes, options.top) for row in probabilities]}

    return routes


def _images(body: bytes, slot: Slot, size: int) -> Images:
    content = parse_json(body)
    # TensorFlow Serving, which defined the protocol, accepts both names.
    instances = content.get("instances", content.get("inputs"))
    if not isinstance(instances, list) or not instances:
        raise invalid_request('the body must be {"instances": [...]} with at least one instance')
    images = np.empty((len(instances), size, size, 3), dtype=np.uint8)
    encoded: dict[int, Upload] = {}
    for number, instance in enumerate(instances):
        what = f"instance {number}"
        if isinstance(instance, dict):
            encoded[number] = Upload(what, decode_base64(instance.get("b64"), f"b64 of {what}"))
        else:
            images[number] = parse_pixels(instance, (size, size, 3), what)
    if encoded:
        images[list(encoded)] = slot.decode(list(encoded.values()))
    return images
