"""The web page for trying the model, with the package's golden images as examples."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, render_template, request

from image_classifier.images import PAD
from image_classifier.monitoring import DriftVerdict
from image_classifier.package import EMBEDDING_FEATURE
from image_classifier.serving.http.error_responses import not_found
from image_classifier.serving.service import Service

_FILE_TYPES = "image/jpeg,image/png,image/webp,image/bmp,image/gif,image/tiff"
"""A list of types makes a phone convert photos that it stores in another format."""
_ALIVE = '{"status": "alive"}\n'  # as KServe's own server responds
_VERDICTS = {
    DriftVerdict.DRIFT: "Detected",
    DriftVerdict.NO_DRIFT: "Not detected",
    DriftVerdict.TOO_FEW_IMAGES: "Not enough images yet",
    DriftVerdict.NO_REFERENCE: "Unknown",
}
_PRECISIONS = {"int8": "8-bit integers", "float32": "32-bit floats"}


def page_routes(service: Service) -> Blueprint:
    """The page at / and the images /examples/<number>.png."""
    routes = Blueprint("page", __name__)
    options, package = service.options, service.package

    @routes.get("/")
    def page() -> Response:
        # KServe's V1 clients ask here whether the server is live. They and most programs send no Accept or */*.
        accepted = request.accept_mimetypes
        if accepted["text/html"] > accepted["application/json"]:
            response = Response(home(), mimetype="text/html")
        else:
            response = Response(_ALIVE, mimetype="application/json")
        response.vary.add("Accept")
        return response

    def home() -> str:
        return render_template(
            "page.html",
            identity=service.identity,
            classes=package.classes,
            size=package.image_size,
            is_padded=package.framing == PAD,
            facts=_facts(package.provenance),
            accuracy=_accuracy(package.provenance),
            examples=[golden.label for golden in package.golden],
            file_types=_FILE_TYPES,
            needs_token=bool(options.token),
            # With a token, the drift report is protected too.
            drift=None if options.token else service.drift.result(),
            verdicts=_VERDICTS,
            embedding_feature=EMBEDDING_FEATURE,
            false_alarms=options.drift_false_alarms,
            max_upload=options.max_upload,
        )

    @routes.get("/examples/<int:number>.png")
    def example(number: int) -> Response:
        if number >= len(package.golden):
            raise not_found(
                f"example {number} does not exist; there are {len(package.golden)} examples, numbered from 0"
            )
        return Response(package.golden[number].png, mimetype="image/png")

    return routes


def _facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if source := provenance.get("data_source"):
        # The name alone: a URL may contain credentials, and a path is private.
        facts.append(("Training data", PurePosixPath(urlsplit(str(source)).path).name))
    if created := provenance.get("created"):
        facts.append(("Trained", str(created)[:10]))
    if accuracy := _accuracy(provenance):
        facts.append(("Accuracy", f"{accuracy} on validation images"))
    if backbone := provenance.get("backbone"):
        source = backbone.get("trained_on", "other data")
        facts.append(("Backbone", f"{backbone['name']}, pretrained on {source} and with its biases"))
    if precision := provenance.get("precision"):
        facts.append(("Precision", _PRECISIONS.get(precision["chosen"], precision["chosen"])))
    return facts


def _accuracy(provenance: Mapping[str, Any]) -> str:
    """Accuracy on the validation images as text; "" if unknown."""
    accuracy = provenance.get("validation_accuracy")
    return "" if accuracy is None else f"{100 * float(accuracy):.1f} %"
