"""The Open Inference Protocol (KServe's V2), in JSON and binary.

The model has one input, `image`: pixels, UINT8 [N, S, S, 3], or encoded images, BYTES [N] or [N, 1], as MLServer's
codecs and Triton's clients of batching models write it. It has two outputs: `probabilities`, FP32 [N, K], and `label`,
BYTES [N].
"""

import re
from contextlib import suppress
from importlib import metadata
from typing import Any

import numpy as np
from flask import Blueprint, Response, request

from image_classifier.package import INPUT, OUTPUT, Images, Probabilities
from image_classifier.serving.http.error_responses import RequestError, invalid_request, not_found
from image_classifier.serving.http.health import check_ready
from image_classifier.serving.http.request_body import Upload, read_body
from image_classifier.serving.inference import Slot
from image_classifier.serving.protocols.json_body import decode_base64
from image_classifier.serving.protocols.tensors import (
    LENGTH_HEADER,
    InferenceRequest,
    Tensor,
    parse_request,
    write_response,
)
from image_classifier.serving.service import Service

LABEL = "label"
_BASE64_START = re.compile(rb"[A-Za-z0-9+/_-]{16}")  # no image format begins like this
_SERVER = "image-classifier"


def v2_routes(service: Service) -> Blueprint:
    """The routes below /v2."""
    routes = Blueprint("open_inference", __name__)
    identity, draining = service.identity, service.draining
    size, classes = service.package.image_size, service.package.classes

    def check_model(name: str, version: str | None) -> None:
        service.check_model_name(name)
        if version not in (None, identity.version):
            raise not_found(f"this server serves version {identity.version} of model {name}, not {version}")

    @routes.get("/v2")
    def server() -> dict[str, Any]:
        return {"name": _SERVER, "version": metadata.version(_SERVER), "extensions": ["binary_tensor_data"]}

    @routes.get("/v2/health/live")
    def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/v2/health/ready")
    def ready() -> dict[str, bool]:
        check_ready(draining)
        return {"ready": True}

    @routes.get("/v2/models/<name>", defaults={"version": None})
    @routes.get("/v2/models/<name>/versions/<version>")
    def model(name: str, version: str | None) -> dict[str, Any]:
        check_model(name, version)
        return {
            "name": name,
            "versions": [identity.version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, size, size, 3]}],
            "outputs": [
                {"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(classes)]},
                {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            ],
        }

    @routes.get("/v2/models/<name>/ready", defaults={"version": None})
    @routes.get("/v2/models/<name>/versions/<version>/ready")
    def model_ready(name: str, version: str | None) -> dict[str, Any]:
        check_model(name, version)
        check_ready(draining)
        return {"name": name, "ready": True}

    @routes.post("/v2/models/<name>/infer", defaults={"version": None})
    @routes.post("/v2/models/<name>/versions/<version>/infer")
    def infer(name: str, version: str | None) -> Response:
        check_model(name, version)
        body = read_body(request.environ, service.options.max_upload)
        with service.inference.slot() as slot:
            parsed = parse_request(body, request.headers.get(LENGTH_HEADER))
            _check_outputs(parsed)
            probabilities = slot.predict(_images(parsed.inputs, slot, size))
        header = {"model_name": name, "model_version": identity.version}
        if parsed.id is not None:
            header["id"] = parsed.id
        content, length = write_response(header, _outputs(parsed, probabilities, classes))
        response = Response(content, mimetype="application/json")
        if length is not None:
            response.mimetype = "application/octet-stream"
            response.headers[LENGTH_HEADER] = str(length)
        return response

    return routes


def _check_outputs(parsed: InferenceRequest) -> None:
    for name in parsed.outputs:
        if name not in (OUTPUT, LABEL):
            raise invalid_request(f"unknown output {name!r}; the outputs are {OUTPUT} and {LABEL}")


def _images(inputs: tuple[Tensor, ...], slot: Slot, size: int) -> Images:
    if [tensor.name for tensor in inputs] != [INPUT]:
        names = ", ".join(tensor.name for tensor in inputs)
        raise invalid_request(f"the model has one input, {INPUT}; the request has {names}")
    (tensor,) = inputs
    if tensor.datatype == "BYTES":
        if not tensor.shape[0] or set(tensor.shape[1:]) - {1}:
            raise _wrong_shape(tensor, "[N] or [N, 1] with N at least 1")
        return slot.decode([_upload(data, f"element {n} of {INPUT}") for n, data in enumerate(tensor.values)])
    if len(tensor.shape) != 4 or not tensor.shape[0] or tensor.shape[1:] != (size, size, 3):
        raise _wrong_shape(tensor, f"[N, {size}, {size}, 3] with N at least 1")
    return np.asarray(tensor.values)


def _upload(data: bytes, name: str) -> Upload:
    """An element of a BYTES tensor: an image, or its base64 as text, which Triton's client sends in binary too."""
    if _BASE64_START.match(data):
        with suppress(RequestError):
            return Upload(name, decode_base64(data.decode("latin-1"), name))
    return Upload(name, data)


def _wrong_shape(tensor: Tensor, expected: str) -> RequestError:
    hint = "" if tensor.datatype == "BYTES" else "; send encoded images, of any size, as BYTES"
    return invalid_request(
        f"tensor {tensor.name} ({tensor.datatype}) must have shape {expected}, not {list(tensor.shape)}{hint}"
    )


def _outputs(
    parsed: InferenceRequest, probabilities: Probabilities, classes: tuple[str, ...]
) -> list[tuple[str, Any, bool]]:
    labels = [classes[index].encode() for index in probabilities.argmax(axis=1)]
    values = {OUTPUT: probabilities, LABEL: labels}
    requested = parsed.outputs or dict.fromkeys(values, parsed.binary_outputs)
    return [(name, values[name], binary) for name, binary in requested.items()]
