"""The Open Inference Protocol (KServe's V2), JSON and binary.

The model has one input, `image`: pixels, UINT8 [N, S, S, 3], or encoded images, BYTES [N]; and two outputs:
`probabilities`, FP32 [N, K], and `label`, BYTES [N].
"""

import threading
from importlib import metadata
from typing import Any

import numpy as np
from flask import Blueprint, Response, request

from image_classifier.package import INPUT, OUTPUT, Identity, Images, Probabilities
from image_classifier.serving.http.error_responses import RequestError, invalid_request, not_found
from image_classifier.serving.http.health import check_ready
from image_classifier.serving.http.request_body import Upload, read_body
from image_classifier.serving.inference import Inference, Turn
from image_classifier.serving.protocols.tensors import (
    LENGTH_HEADER,
    InferenceRequest,
    Tensor,
    parse_request,
    write_response,
)
from image_classifier.settings import Settings

LABEL = "label"
_SERVER = "image-classifier"


def v2_routes(
    settings: Settings, inference: Inference, identity: Identity, draining: threading.Event
) -> Blueprint:
    routes = Blueprint("open_inference", __name__)
    size, classes = inference.model.package.image_size, inference.model.classes

    def check(name: str, version: str | None) -> None:
        identity.check_name(name, settings.name)
        if version not in (None, identity.version):
            raise not_found(f"model {name} has version {identity.version}, not {version}")

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
        check(name, version)
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
        check(name, version)
        check_ready(draining)
        return {"name": name, "ready": True}

    @routes.post("/v2/models/<name>/infer", defaults={"version": None})
    @routes.post("/v2/models/<name>/versions/<version>/infer")
    def infer(name: str, version: str | None) -> Response:
        check(name, version)
        body = read_body(request.environ, settings.max_upload)
        with inference.turn() as turn:
            asked = parse_request(body, request.headers.get(LENGTH_HEADER))
            _check_outputs(asked)
            probabilities = turn.ask(_images(asked.inputs, turn, size))
        header = {"model_name": name, "model_version": identity.version}
        if asked.id is not None:
            header["id"] = asked.id
        outputs = _outputs(asked, probabilities, classes)
        content, length = write_response(header, outputs)
        answer = Response(content, mimetype="application/json")
        if length is not None:
            answer.mimetype = "application/octet-stream"
            answer.headers[LENGTH_HEADER] = str(length)
        return answer

    return routes


def _check_outputs(asked: InferenceRequest) -> None:
    for name in asked.outputs:
        if name not in (OUTPUT, LABEL):
            raise invalid_request(f"there is no output {name!r}; there are {OUTPUT} and {LABEL}")


def _images(inputs: tuple[Tensor, ...], turn: Turn, size: int) -> Images:
    if [tensor.name for tensor in inputs] != [INPUT]:
        names = ", ".join(tensor.name for tensor in inputs)
        raise invalid_request(f"the inputs are {names}, but the model has one input, {INPUT}")
    (tensor,) = inputs
    if tensor.datatype == "BYTES":
        if len(tensor.shape) != 1 or not tensor.shape[0]:
            raise _wrong_shape(tensor, "[N] with N from 1")
        return turn.decode([Upload(f"element {n} of {INPUT}", data) for n, data in enumerate(tensor.values)])
    if len(tensor.shape) != 4 or not tensor.shape[0] or tensor.shape[1:] != (size, size, 3):
        raise _wrong_shape(tensor, f"[N, {size}, {size}, 3] with N from 1")
    return np.asarray(tensor.values)


def _wrong_shape(tensor: Tensor, wanted: str) -> RequestError:
    return invalid_request(
        f"tensor {tensor.name} ({tensor.datatype}) has shape {list(tensor.shape)}, not {wanted}",
    )


def _outputs(
    asked: InferenceRequest, probabilities: Probabilities, classes: tuple[str, ...]
) -> list[tuple[str, Any, bool]]:
    labels = [classes[index].encode() for index in probabilities.argmax(axis=1)]
    values = {OUTPUT: probabilities, LABEL: labels}
    wanted = asked.outputs or dict.fromkeys(values, asked.binary_outputs)
    return [(name, values[name], binary) for name, binary in wanted.items()]
