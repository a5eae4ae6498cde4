"""The API document: /openapi.json (OpenAPI 3.0.3), and /docs, the same as a web page.

Paths, methods and path parameters come from the Flask routes; descriptions and schemas are written here.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, current_app, render_template, request

from image_classifier.monitoring import DriftVerdict
from image_classifier.package import INPUT, OUTPUT, ModelIdentity, Package
from image_classifier.serving.http.error_responses import ACCEPTED_ENCODINGS
from image_classifier.serving.http.hot_path import PREDICT_PATH
from image_classifier.serving.protocols.explain import METHOD_HEADER, METHODS
from image_classifier.serving.protocols.tensors import LENGTH_HEADER
from image_classifier.serving.server_options import ServerOptions
from image_classifier.serving.service import Service

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_PROBABILITY: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_BINARY: Schema = {"type": "string", "format": "binary"}
_PARAMETERS: Schema = {"type": "object", "additionalProperties": True}
_PREDICTION, _V1, _V2 = "Prediction", "KServe V1", "Open Inference Protocol"
_WEB_PAGES, _OPERATION = "Web pages", "Operation"
_TAGS = (_PREDICTION, _V1, _V2, _WEB_PAGES, _OPERATION)  # in the order of their importance to a reader
_RELATIVE_URL = "/"  # relative to the document's own URL, as OpenAPI allows
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def _object(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _list(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


def _schema(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _response(
    description: str, schema: Schema, content_type: str = "application/json", also: Schema | None = None
) -> Schema:
    content = {content_type: schema, **(also or {})}
    return {"description": description, "content": {name: {"schema": each} for name, each in content.items()}}


_ERRORS = {
    400: "The request is invalid or the image cannot be decoded; the error text names the reason.",
    401: "The token is missing or wrong.",
    404: "The path, model, version or example does not exist.",
    408: "The body arrived too slowly.",
    413: "The body, the number of values in it, or the number of pixels exceeds the limit.",
    415: "The body is neither an image nor a form, or it is compressed in a way that is not supported.",
    503: "The server is overloaded or shutting down; retry after the time in Retry-After.",
}
_INFERENCE_ERRORS = (400, 401, 408, 413, 415, 503)


def _operation(tag: str, summary: str, success: Schema, *errors: int, curl: str = "", **details: Any) -> Schema:
    failures = {str(status): _response(_ERRORS[status], _schema("Error")) for status in sorted(errors)}
    if "503" in failures:
        failures["503"]["headers"] = {"Retry-After": {"schema": _COUNT, "description": "Seconds."}}
    operation = {"tags": [tag], "summary": summary, **details, "responses": {"200": success, **failures}}
    return {**operation, "x-curl": curl} if curl else operation


def _images(*, several: bool) -> Schema:
    files = {"type": "object", "additionalProperties": _BINARY, "minProperties": 1}
    if not several:
        files["maxProperties"] = 1
    return {
        "required": True,
        "description": "The bytes of an image (JPEG, PNG, WebP, BMP, GIF or TIFF), or a form of image files.",
        "content": {"image/*": {"schema": _BINARY}, "application/octet-stream": {"schema": _BINARY}}
        | {"multipart/form-data": {"schema": files}},
    }


def _json_body(schema: str, example: Any, **others: Schema) -> Schema:
    return {
        "required": True,
        "content": {"application/json": {"schema": _schema(schema), "example": example}, **others},
    }


def _header(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "description": description, "required": False, "schema": schema}


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "required": False, "schema": schema}


def _operations(options: ServerOptions, package: Package) -> dict[str, Schema]:
    """The operation of each Flask endpoint."""
    size, classes = package.image_size, len(package.classes)
    binary_length = _header(
        LENGTH_HEADER,
        "Length in bytes of the decoded body's JSON part, if binary contents of the tensors follow it.",
        _COUNT,
    )
    encoding = _header(
        "Content-Encoding",
        "How the body is compressed; its limits apply to the decoded body.",
        {"type": "string", "enum": ["identity", *ACCEPTED_ENCODINGS]},
    )
    top: Schema = {"type": "integer", "minimum": 1, "maximum": 999999999}
    formats: Schema = {"type": "string", "enum": ["json", "png"]}
    methods: Schema = {"type": "string", "enum": list(METHODS)}
    status, flag = _object({"status": _TEXT}), {"type": "boolean"}
    server_ready = _response("The server is ready.", _object({"ready": flag}))
    html = _response("An HTML page.", _TEXT, "text/html")
    return {
        "prediction.predict": _operation(
            _PREDICTION,
            "Classify one or more images",
            _response("One prediction per image.", _schema("Predictions")),
            *_INFERENCE_ERRORS,
            description="Send the bytes of one image, or a form of image files. Predictions are in the order of the "
            "files.",
            parameters=[
                _query("top", f"Number of classes listed for each image; default {options.top}.", top),
                encoding,
            ],
            requestBody=_images(several=True),
            curl="curl --data-binary @photo.jpg {server}/predict",
        ),
        "explanation.explain": _operation(
            _PREDICTION,
            "Explain a prediction with a heat map",
            _response("The heat map.", _schema("Explanation"), also={"image/png": _BINARY}),
            *_INFERENCE_ERRORS,
            description="The response is the drop in probability without each square of the image, or a transparent "
            "PNG to overlay on the center square of the image, or, if the model pads images, on the square around it. "
            "`occlusion` hides one square at a time. `activation_map` removes the evidence that the model found in the "
            "square, which takes a single prediction; only models on a pretrained backbone have it. The response says "
            "which method was used; of a "
            f"PNG its header `{METHOD_HEADER}` does.",
            parameters=[
                _query("format", "Format of the response; default json.", formats),
                _query("method", "Method; default activation_map if the model has it, else occlusion.", methods),
                encoding,
            ],
            requestBody=_images(several=False),
            curl="curl --data-binary @photo.jpg '{server}/explain?format=png' --output heat.png",
        ),
        "kserve_v1.models": _operation(
            _V1, "List the models", _response("Names of the models.", _object({"models": _list(_TEXT)}))
        ),
        "kserve_v1.model": _operation(
            _V1, "Is the model ready?", _response("The model is ready.", _object({"name": _TEXT, "ready": flag})), 404
        ),
        "kserve_v1.predict": _operation(
            _V1,
            "Classify instances",
            _response("One prediction per instance.", _schema("V1Answer")),
            *_INFERENCE_ERRORS,
            404,
            description=f"An instance is an encoded image as base64 or its pixels [{size}][{size}][3], by itself or as "
            "the only member of an object: `b64`, or a name of the client's choice.",
            parameters=[encoding],
            requestBody=_json_body("V1Request", {"instances": [{"b64": "iVBORw0KGgo…"}]}),
            curl='curl --json \'{{"instances": [{{"b64": "\'$(base64 --wrap=0 photo.jpg)\'"}}]}}\' {server}{path}',
        ),
        "open_inference.server": _operation(
            _V2,
            "Server metadata",
            _response(
                "Name, version and extensions of the server.",
                _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
            ),
        ),
        "open_inference.live": _operation(
            _V2, "Is the server live?", _response("The server is live.", _object({"live": flag}))
        ),
        "open_inference.ready": _operation(_V2, "Is the server ready?", server_ready, 503),
        "open_inference.model": _operation(
            _V2, "Model metadata", _response("Inputs and outputs of the model.", _schema("V2Model")), 404
        ),
        "open_inference.model_ready": _operation(_V2, "Is the model ready?", server_ready, 503, 404),
        "open_inference.infer": _operation(
            _V2,
            "Run inference",
            _response("The requested outputs.", _schema("V2Answer"), also={"application/octet-stream": _BINARY}),
            *_INFERENCE_ERRORS,
            404,
            description=f"One input, `{INPUT}`: UINT8 [N, {size}, {size}, 3], or BYTES [N] or [N, 1] of encoded "
            f"images (in JSON as base64). Two outputs: `{OUTPUT}`, FP32 [N, {classes}], and `label`, BYTES [N].",
            parameters=[binary_length, encoding],
            requestBody=_json_body(
                "V2Request",
                {"inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [1], "data": ["iVBORw0KGgo…"]}]},
                **{"application/octet-stream": {"schema": _BINARY}},
            ),
        ),
        "operation.live": _operation(_OPERATION, "Liveness probe", _response("The process is live.", status)),
        "operation.ready": _operation(
            _OPERATION, "Readiness probe", _response("The server accepts requests.", status), 503
        ),
        "operation.counts": _operation(
            _OPERATION,
            "Metrics for Prometheus",
            _response("Metrics in Prometheus's text format.", _TEXT, "text/plain"),
            401,
        ),
        "operation.seen": _operation(
            _OPERATION,
            "Input drift report",
            _response("The verdict and its evidence.", _schema("Drift")),
            401,
            description="Compares statistics of the newest full window of images with those of the training data. "
            "No image is stored; of embeddings, a few dozen numbers an image are. The counts since the server's start "
            "let a collector add up several servers.",
            curl="curl {server}/drift",
        ),
        "openapi.document": _operation(
            _OPERATION, "This API document", _response("An OpenAPI 3.0.3 document.", {"type": "object"})
        ),
        "openapi.docs": _operation(_WEB_PAGES, "This API document as a web page", html),
        "page.page": _operation(
            _WEB_PAGES,
            "Web page for trying the model, or liveness for KServe's V1 clients",
            _response("An HTML page if Accept prefers text/html, else JSON.", status, also={"text/html": _TEXT}),
        ),
        "page.example": _operation(_WEB_PAGES, "Example image", _response("A PNG image.", _BINARY, "image/png"), 404),
    }


def _schemas(identity: ModelIdentity) -> dict[str, Schema]:
    labeled = {"label": _TEXT, "probability": _PROBABILITY}
    ranked = {**labeled, "top": _list(_object(labeled), minItems=1)}
    about = {
        "model": _object(dict.fromkeys(identity.to_dict(), _TEXT)),
        "milliseconds": _object({"decode": _NUMBER, "infer": _NUMBER}),
        "request_id": _TEXT,
    }
    tensor = {
        "name": _TEXT,
        "datatype": {"type": "string", "enum": ["UINT8", "BYTES", "FP32"]},
        "shape": _list(_COUNT, minItems=1, maxItems=8),
    }
    tensors = _list(_object(tensor, data=_list({}), parameters=_PARAMETERS), minItems=1, maxItems=1)
    requested = _list(_object({"name": _TEXT}, parameters=_PARAMETERS))
    outputs = _list(_object(tensor, data=_list({}), parameters=_PARAMETERS))
    described = _list(_object({**tensor, "shape": _list({"type": "integer", "minimum": -1})}))
    explanation = _object(
        {
            "method": {"type": "string", "enum": list(METHODS)},
            "square": _COUNT,
            "offsets": _list(_COUNT),
            "image_size": _COUNT,
            "drops": _list(_list(_NUMBER)),
        }
    )
    difference = {"p_value": _PROBABILITY, "distance": _PROBABILITY, "drifted": {"type": "boolean"}}
    feature = _object({"name": _TEXT, "images": _COUNT, **difference, "in_words": _TEXT})
    histograms = {"type": "object", "additionalProperties": _list(_COUNT)}
    base64: Schema = {"type": "string", "format": "byte"}
    rows = _list(_list({"type": "integer", "minimum": 0, "maximum": 255}, minItems=3, maxItems=3))
    values = [base64, _list(rows)]
    boxed = {"type": "object", "additionalProperties": {"anyOf": values}, "minProperties": 1, "maxProperties": 1}
    named = {**boxed, "additionalProperties": {"anyOf": [boxed, *values]}}
    return {
        "Error": _object({"error": _TEXT, "code": _TEXT, "status": {"type": "integer"}}),
        "Predictions": _object(
            {"predictions": _list(_object({"file": {**_TEXT, "nullable": True}, **ranked}), minItems=1), **about}
        ),
        "Explanation": _object({**ranked, "explanation": explanation, **about}),
        "Drift": _object(
            {
                "verdict": {"type": "string", "enum": [word.value for word in DriftVerdict]},
                "reason": _TEXT,
                "features": _list(feature),
                "false_alarm_rate": _PROBABILITY,
                "window": _object(dict.fromkeys(("images", "needed", "number", "filling"), _COUNT)),
                "counts": _object(
                    {"instance": _TEXT, "images": _COUNT, "features": histograms}, embedded=_COUNT, embeddings=base64
                ),
                "model": about["model"],
            }
        ),
        "V1Request": _object({"instances": _list({"anyOf": [named, *values]}, minItems=1)}),
        "V1Answer": _object({"predictions": _list(_object(ranked), minItems=1)}),
        "V2Request": _object({"inputs": tensors}, id=_TEXT, parameters=_PARAMETERS, outputs=requested),
        "V2Answer": _object({"model_name": _TEXT, "model_version": _TEXT, "outputs": outputs}, id=_TEXT),
        "V2Model": _object(
            {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "inputs": described, "outputs": described}
        ),
    }


def build_document(app: Flask, options: ServerOptions, package: Package, identity: ModelIdentity) -> dict[str, Any]:
    """The OpenAPI document of an application's routes; raises KeyError for a route without a description."""
    operations = _operations(options, package)
    paths: dict[str, Schema] = {}
    for rule in app.url_map.iter_rules():
        if rule.endpoint == "static":
            continue
        arguments = rule.arguments - set(rule.defaults or {})
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            operation = operations[rule.endpoint]
            entry = {
                "operationId": re.sub(r"\W", "_", rule.endpoint + "_version" * ("version" in arguments)),
                **operation,
                "parameters": [*_path_parameters(arguments, identity), *operation.get("parameters", [])],
            }
            paths.setdefault(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), {})[method.lower()] = entry
    document: dict[str, Any] = {
        "openapi": "3.0.3",
        "info": {
            "title": identity.name,
            "version": metadata.version("image-classifier"),
            "description": f"Classifies images into {len(package.classes)} classes. Model version {identity.version}. "
            "Every response identifies the model in the headers X-Model-Name and X-Model-Version.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "servers": [{"url": _RELATIVE_URL}],
        "tags": [{"name": tag} for tag in _TAGS],
        "paths": dict(sorted(paths.items(), key=lambda item: (item[0] != PREDICT_PATH, item[0]))),
        "components": {"schemas": _schemas(identity)},
    }
    if options.token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _path_parameters(arguments: Collection[str], identity: ModelIdentity) -> Iterator[Schema]:
    examples = {"name": identity.name, "version": identity.version, "number": 0}
    for name in sorted(arguments):
        schema = _COUNT if name == "number" else _TEXT
        yield {"name": name, "in": "path", "required": True, "schema": schema, "example": examples[name]}


def openapi_routes(service: Service) -> Blueprint:
    """/openapi.json and /docs."""
    routes = Blueprint("openapi", __name__)

    @cache
    def document() -> dict[str, Any]:
        return build_document(current_app, service.options, service.package, service.identity)

    def document_with_server() -> dict[str, Any]:
        # An absolute URL, because a portal shows the document at another address.
        return {**document(), "servers": [{"url": public_url(dict(request.headers), request.scheme)}]}

    @routes.get("/openapi.json", endpoint="document")
    def openapi_json() -> Response:
        # jsonify would sort the keys, and a portal shows the paths in their order.
        return Response(orjson.dumps(document_with_server()), mimetype="application/json")

    @routes.get("/docs")
    def docs() -> str:
        return render_template("docs.html", document=document_with_server(), tags=_by_tag(document()))

    return routes


def public_url(headers: Mapping[str, str], scheme: str) -> str:
    """Scheme and host under which the client reached this server, e.g. https://photos.example.org; "/" if unknown.

    `scheme` is the connection's; if TLS ends at a proxy, X-Forwarded-Proto has the client's. Knative's queue-proxy and
    its ingress pass on the Host; a proxy that replaces it puts the client's into X-Forwarded-Host. Of several values,
    the first is the one closest to the client. A forged header affects only the response to that request.
    """
    forwarded = _first(headers.get("X-Forwarded-Proto", "")).lower()
    host = _first(headers.get("X-Forwarded-Host", "")) or headers.get("Host", "")
    if not _HOST.fullmatch(host):
        return _RELATIVE_URL
    return f"{forwarded if forwarded in ('http', 'https') else scheme}://{host}"


def _first(values: str) -> str:
    return values.split(",", 1)[0].strip()


def _by_tag(document: Mapping[str, Any]) -> dict[str, list[tuple[str, str, Schema]]]:
    operations: dict[str, list[tuple[str, str, Schema]]] = {tag: [] for tag in _TAGS}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operations[operation["tags"][0]].append((method.upper(), path, operation))
    return operations
