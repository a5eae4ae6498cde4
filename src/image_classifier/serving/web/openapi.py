"""The service describes itself: /openapi.json (OpenAPI 3.0.3), and /docs, the same for people.

Paths, methods and path parameters come from the routes themselves; here is what each of them means.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, current_app, render_template, request

from image_classifier.monitoring import DriftVerdict
from image_classifier.package import INPUT, OUTPUT, Identity, Package
from image_classifier.serving.http.hot_path import PATH
from image_classifier.serving.http.public_address import UNKNOWN, public_address
from image_classifier.serving.protocols.tensors import LENGTH_HEADER
from image_classifier.settings import Settings

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_PROBABILITY: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_BINARY: Schema = {"type": "string", "format": "binary"}
_PARAMETERS: Schema = {"type": "object", "additionalProperties": True}
_TAGS = ("Ask", "KServe V1", "Open Inference Protocol", "For people", "Operation")
"""In the order of what a reader looks for."""


def _object(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _list(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


def _schema(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: Schema, kind: str = "application/json") -> Schema:
    return {"description": description, "content": {kind: {"schema": schema}}}


_ERRORS = {
    400: "The request or the image cannot be read; the text says what is wrong.",
    401: "The token is missing or wrong.",
    404: "There is no such thing; the text says what there is.",
    408: "The body came too slowly.",
    413: "The body, the number of values in it, or the image by its pixels is larger than the limit.",
    415: "The body is neither an image nor a form.",
    503: "Too many requests, or the server is stopping; Retry-After says when to try again.",
}


def _responses(success: Schema, *errors: int) -> Schema:
    refusals = {str(status): _answer(_ERRORS[status], _schema("Error")) for status in sorted(errors)}
    if "503" in refusals:
        refusals["503"]["headers"] = {"Retry-After": {"schema": _COUNT, "description": "Seconds."}}
    return {"200": success, **refusals}


_ASKING = (400, 401, 408, 413, 503)


def _images(*, several: bool) -> Schema:
    files = {"type": "object", "additionalProperties": _BINARY, "minProperties": 1}
    if not several:
        files["maxProperties"] = 1
    return {
        "required": True,
        "description": "The bytes of an image (JPEG, PNG, WebP, BMP, GIF, TIFF), or a form of image files.",
        "content": {"image/*": {"schema": _BINARY}, "application/octet-stream": {"schema": _BINARY}}
        | {"multipart/form-data": {"schema": files}},
    }


def _json_body(schema: str, example: Any, **others: Schema) -> Schema:
    return {
        "required": True,
        "content": {"application/json": {"schema": _schema(schema), "example": example}, **others},
    }


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "required": False, "schema": schema}


def _operations(settings: Settings, package: Package) -> dict[str, Schema]:
    """What each endpoint means."""
    size, classes = package.image_size, len(package.classes)
    binary_length: Schema = {
        "name": LENGTH_HEADER,
        "in": "header",
        "description": "Length of the JSON part, where the contents of the tensors follow it.",
        "required": False,
        "schema": _COUNT,
    }
    ready = _responses(_answer("Ready.", _object({"ready": {"type": "boolean"}})), 503)
    return {
        "prediction.predict": {
            "tags": ["Ask"],
            "summary": "What is in this image?",
            "description": "Send the bytes of one image, or a form of several files; answers keep their order.",
            "parameters": [
                _query(
                    "top",
                    f"Classes listed for each image; {settings.top} if not said.",
                    {"type": "integer", "minimum": 1, "maximum": 999999999},
                )
            ],
            "requestBody": _images(several=True),
            "responses": _responses(
                _answer("A prediction for each image.", _schema("Predictions")), *_ASKING, 415
            ),
            "x-curl": "curl --data-binary @photo.jpg {server}/predict",
        },
        "explanation.explain": {
            "tags": ["Ask"],
            "summary": "Which part of the image decided?",
            "description": "Hides one square of the image after the other; the answer has the fall in probability "
            "for each, or a transparent PNG to lay over the middle square of the image.",
            "parameters": [
                _query("format", "json if not said.", {"type": "string", "enum": ["json", "png"]})
            ],
            "requestBody": _images(several=False),
            "responses": _responses(
                {
                    "description": "The map.",
                    "content": {
                        "application/json": {"schema": _schema("Explanation")},
                        "image/png": {"schema": _BINARY},
                    },
                },
                *_ASKING,
                415,
            ),
            "x-curl": "curl --data-binary @photo.jpg '{server}/explain?format=png' --output heat.png",
        },
        "kserve_v1.models": {
            "tags": ["KServe V1"],
            "summary": "Models",
            "responses": _responses(_answer("Their names.", _object({"models": _list(_TEXT)}))),
        },
        "kserve_v1.model": {
            "tags": ["KServe V1"],
            "summary": "Is the model ready?",
            "responses": _responses(
                _answer("It is.", _object({"name": _TEXT, "ready": {"type": "boolean"}})), 404
            ),
        },
        "kserve_v1.predict": {
            "tags": ["KServe V1"],
            "summary": "Predictions for instances",
            "description": "An instance is an encoded image, as base64 in an object, "
            f"or the pixels [{size}][{size}][3] of one.",
            "requestBody": _json_body("V1Request", {"instances": [{"b64": "iVBORw0KGgo…"}]}),
            "responses": _responses(_answer("A prediction for each.", _schema("V1Answer")), *_ASKING, 404),
            "x-curl": 'curl --json \'{{"instances": [{{"b64": "\'$(base64 --wrap=0 photo.jpg)\'"}}]}}\' {server}{path}',
        },
        "open_inference.server": {
            "tags": ["Open Inference Protocol"],
            "summary": "The server and its extensions",
            "responses": _responses(
                _answer(
                    "About the server.",
                    _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
                )
            ),
        },
        "open_inference.live": {
            "tags": ["Open Inference Protocol"],
            "summary": "Is the server live?",
            "responses": _responses(_answer("It is.", _object({"live": {"type": "boolean"}}))),
        },
        "open_inference.ready": {
            "tags": ["Open Inference Protocol"],
            "summary": "Is the server ready?",
            "responses": ready,
        },
        "open_inference.model": {
            "tags": ["Open Inference Protocol"],
            "summary": "The model's inputs and outputs",
            "responses": _responses(_answer("About the model.", _schema("V2Model")), 404),
        },
        "open_inference.model_ready": {
            "tags": ["Open Inference Protocol"],
            "summary": "Is the model ready?",
            "responses": _responses(ready["200"], 503, 404),
        },
        "open_inference.infer": {
            "tags": ["Open Inference Protocol"],
            "summary": "Inference",
            "description": f"One input, `{INPUT}`: UINT8 [N, {size}, {size}, 3], or BYTES [N] of encoded images "
            f"(in JSON as base64). Two outputs: `{OUTPUT}`, FP32 [N, {classes}], and `label`, BYTES [N].",
            "parameters": [binary_length],
            "requestBody": _json_body(
                "V2Request",
                {"inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [1], "data": ["iVBORw0KGgo…"]}]},
                **{"application/octet-stream": {"schema": _BINARY}},
            ),
            "responses": _responses(
                {
                    "description": "The outputs.",
                    "content": {
                        "application/json": {"schema": _schema("V2Answer")},
                        "application/octet-stream": {"schema": _BINARY},
                    },
                },
                *_ASKING,
                404,
            ),
        },
        "operation.live": {
            "tags": ["Operation"],
            "summary": "Is the process live?",
            "responses": _responses(_answer("It is.", _object({"status": _TEXT}))),
        },
        "operation.ready": {
            "tags": ["Operation"],
            "summary": "Should requests come here?",
            "responses": _responses(_answer("They should.", _object({"status": _TEXT})), 503),
        },
        "operation.counts": {
            "tags": ["Operation"],
            "summary": "Counts and times, for Prometheus",
            "responses": _responses(_answer("Prometheus's text format.", _TEXT, "text/plain"), 401),
        },
        "operation.seen": {
            "tags": ["Operation"],
            "summary": "Are the images like those that the model was made with?",
            "description": "Judges the newest full window of images by their statistics; no image is kept. The "
            "counts, since this server's start, are what a collector adds up over servers.",
            "responses": _responses(_answer("The verdict and what it was made from.", _schema("Drift")), 401),
            "x-curl": "curl {server}/drift",
        },
        "openapi.document": {
            "tags": ["Operation"],
            "summary": "This description",
            "responses": _responses(_answer("OpenAPI 3.0.3.", {"type": "object"})),
        },
        "openapi.docs": {
            "tags": ["For people"],
            "summary": "This description, to read",
            "responses": _responses(_answer("A page.", _TEXT, "text/html")),
        },
        "page.page": {
            "tags": ["For people"],
            "summary": "Drop an image, see what it is",
            "responses": _responses(_answer("A page.", _TEXT, "text/html")),
        },
        "page.example": {
            "tags": ["For people"],
            "summary": "Example images",
            "responses": _responses(_answer("An image.", _BINARY, "image/png"), 404),
        },
    }


def _schemas(identity: Identity) -> dict[str, Schema]:
    ranked = {
        "label": _TEXT,
        "probability": _PROBABILITY,
        "top": _list(_object({"label": _TEXT, "probability": _PROBABILITY}), minItems=1),
    }
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
    described = {**tensor, "shape": _list({"type": "integer", "minimum": -1})}
    encoded = _object({"b64": {"type": "string", "format": "byte"}})
    rows = _list(_list({"type": "integer", "minimum": 0, "maximum": 255}, minItems=3, maxItems=3))
    return {
        "Error": _object({"error": _TEXT, "code": _TEXT, "status": {"type": "integer"}}),
        "Predictions": _object(
            {
                "predictions": _list(_object({"file": {**_TEXT, "nullable": True}, **ranked}), minItems=1),
                **about,
            }
        ),
        "Explanation": _object(
            {
                **ranked,
                "explanation": _object(
                    {
                        "square": _COUNT,
                        "offsets": _list(_COUNT),
                        "image_size": _COUNT,
                        "drops": _list(_list(_NUMBER)),
                    }
                ),
                **about,
            }
        ),
        "Drift": _object(
            {
                "verdict": {"type": "string", "enum": [word.value for word in DriftVerdict]},
                "reason": _TEXT,
                "features": _list(
                    _object(
                        {
                            "name": _TEXT,
                            "images": _COUNT,
                            "p_value": _PROBABILITY,
                            "distance": _PROBABILITY,
                            "drifted": {"type": "boolean"},
                            "in_words": _TEXT,
                        }
                    )
                ),
                "false_alarm_rate": _PROBABILITY,
                "window": _object(dict.fromkeys(("images", "needed", "number", "filling"), _COUNT)),
                "counts": _object(
                    {
                        "instance": _TEXT,
                        "images": _COUNT,
                        "features": {"type": "object", "additionalProperties": _list(_COUNT)},
                    }
                ),
                "model": about["model"],
            }
        ),
        "V1Request": _object({"instances": _list({"oneOf": [encoded, _list(rows)]}, minItems=1)}),
        "V1Answer": _object({"predictions": _list(_object(ranked), minItems=1)}),
        "V2Request": _object(
            {
                "inputs": _list(
                    _object(tensor, data=_list({}), parameters=_PARAMETERS), minItems=1, maxItems=1
                )
            },
            id=_TEXT,
            parameters=_PARAMETERS,
            outputs=_list(_object({"name": _TEXT}, parameters=_PARAMETERS)),
        ),
        "V2Answer": _object(
            {
                "model_name": _TEXT,
                "model_version": _TEXT,
                "outputs": _list(_object(tensor, data=_list({}), parameters=_PARAMETERS)),
            },
            id=_TEXT,
        ),
        "V2Model": _object(
            {
                "name": _TEXT,
                "versions": _list(_TEXT),
                "platform": _TEXT,
                "inputs": _list(_object(described)),
                "outputs": _list(_object(described)),
            }
        ),
    }


def build_document(app: Flask, settings: Settings, package: Package, identity: Identity) -> dict[str, Any]:
    """The OpenAPI document of an application's routes; raises KeyError for one that is not described."""
    operations = _operations(settings, package)
    paths: dict[str, Schema] = {}
    for rule in app.url_map.iter_rules():
        if rule.endpoint == "static":
            continue
        arguments = rule.arguments - set(rule.defaults or {})
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            operation = operations[rule.endpoint]
            described = {
                "operationId": re.sub(r"\W", "_", rule.endpoint + "_version" * ("version" in arguments)),
                **operation,
                "parameters": [*_path_parameters(arguments, identity), *operation.get("parameters", [])],
            }
            paths.setdefault(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), {})[method.lower()] = described
    document: dict[str, Any] = {
        "openapi": "3.0.3",
        "info": {
            "title": identity.name,
            "version": metadata.version("image-classifier"),
            "description": f"Tells which of {len(package.classes)} classes an image shows. Model version "
            f"{identity.version}. Every answer says who gave it, in the headers X-Model-Name and X-Model-Version.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "servers": [{"url": UNKNOWN}],
        "tags": [{"name": tag} for tag in _TAGS],
        "paths": dict(sorted(paths.items(), key=lambda described: (described[0] != PATH, described[0]))),
        "components": {"schemas": _schemas(identity)},
    }
    if settings.token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _path_parameters(arguments: Collection[str], identity: Identity) -> Iterator[Schema]:
    examples = {"name": identity.name, "version": identity.version, "number": 0}
    for name in sorted(arguments):
        schema = _COUNT if name == "number" else _TEXT
        yield {"name": name, "in": "path", "required": True, "schema": schema, "example": examples[name]}


def openapi_routes(settings: Settings, package: Package, identity: Identity) -> Blueprint:
    """/openapi.json and /docs."""
    routes = Blueprint("openapi", __name__)

    @cache
    def described() -> dict[str, Any]:
        return build_document(current_app, settings, package, identity)

    def described_here() -> dict[str, Any]:
        # Absolute, for whoever copies the document: a portal shows it under an address of its own.
        return {**described(), "servers": [{"url": public_address(dict(request.headers), request.scheme)}]}

    @routes.get("/openapi.json")
    def document() -> Response:
        # Not with jsonify, which sorts the keys: a portal shows the paths in the order that they have.
        return Response(orjson.dumps(described_here()), mimetype="application/json")

    @routes.get("/docs")
    def docs() -> str:
        return render_template("docs.html", document=described_here(), tags=_by_tag(described()))

    return routes


def _by_tag(document: Mapping[str, Any]) -> dict[str, list[tuple[str, str, Schema]]]:
    found: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    return {tag: found[tag] for tag in _TAGS}
