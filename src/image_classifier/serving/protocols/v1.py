"""KServe's V1 protocol: `POST /v1/models/<name>:predict` with instances.

An instance is an encoded image as base64, {"b64": "…"}, or pixels, [S][S][3] numbers from 0 to 255; either may also be
the only member of an object, under any key.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from flask import Blueprint, request

from image_classifier.package import Images
from image_classifier.serving.http.error_responses import invalid_request
from image_classifier.serving.http.request_body import Upload, read_body
from image_classifier.serving.inference import Slot, ranked_prediction
from image_classifier.serving.protocols.json_body import clip, decode_base64, parse_json
from image_classifier.serving.protocols.tensors import parse_pixels
from image_classifier.serving.service import Service

_ADVICE = 'send {"instances": [{"b64": "<base64 of an image>"}]}'
_MAX_NESTED_KEYS = 2


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
    instances = _instances(parse_json(body, _ADVICE))
    pixels: dict[int, Images] = {}
    encoded: dict[int, Upload] = {}
    for number, instance in enumerate(instances):
        value, what = _value(instance, f"instance {number}")
        if isinstance(value, list):
            pixels[number] = parse_pixels(value, (size, size, 3), what)
        else:
            encoded[number] = Upload(what, decode_base64(value, what))
    decoded: Iterable[Images] = slot.decode(list(encoded.values())) if encoded else ()
    # Only after all of them were checked: half a million empty lists would get the memory of as many images.
    images = np.empty((len(instances), size, size, 3), dtype=np.uint8)
    for number, image in [*pixels.items(), *zip(encoded, decoded, strict=True)]:
        images[number] = image
    return images


def _instances(content: dict[str, Any]) -> list[Any]:
    instances = content.get("instances")
    if instances is None:
        # TensorFlow Serving, which defined the protocol, accepts this name too, and below it the name of an input.
        instances = content.get("inputs")
        if isinstance(instances, dict) and len(instances) == 1:
            [instances] = instances.values()
    if not isinstance(instances, list) or not instances:
        raise invalid_request(f'the body must be {{"instances": [...]}} with at least one instance; {_ADVICE}')
    return instances


def _value(instance: object, what: str) -> tuple[object, str]:
    """The base64 or the pixels of an instance, and where in it they are, for messages.

    The key names an input of the model in TensorFlow Serving, {"image_bytes": {"b64": "…"}}, and has no meaning in
    KServe's examples, {"data": "…"}. Vertex AI's add a key of the instance, {"key": "1", "image": {"b64": "…"}}.
    """
    for _ in range(_MAX_NESTED_KEYS):
        if not isinstance(instance, dict):
            break
        keys = ["b64"] if "b64" in instance else list(instance)
        if len(keys) > 1:
            keys = [key for key in keys if isinstance(instance[key], dict)]
        if len(keys) != 1:
            raise invalid_request(
                f"{what} must have one key, whose value is the image, not {clip(list(instance))}; {_ADVICE}"
            )
        instance, what = instance[keys[0]], f"{clip(keys[0])[1:-1]} of {what}"
    return instance, what
