"""The page for a person with an image, and the package's golden images as examples on it."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, render_template

from image_classifier.monitoring import DriftVerdict
from image_classifier.package import Identity, Package
from image_classifier.serving.http.error_responses import not_found
from image_classifier.serving.observe.drift_windows import Drift
from image_classifier.settings import Settings

_ACCEPTED = "image/jpeg,image/png,image/webp,image/bmp,image/gif,image/tiff"
"""Naming the types makes a phone convert what it stores otherwise."""


_VERDICTS = {
    DriftVerdict.DRIFT: "They have changed",
    DriftVerdict.NO_DRIFT: "They are like those it was made with",
    DriftVerdict.TOO_FEW_IMAGES: "Not enough images yet",
    DriftVerdict.NO_REFERENCE: "Not known",
}
"""What is said of the images that are asked about."""


def page_routes(settings: Settings, package: Package, identity: Identity, drift: Drift) -> Blueprint:
    """The page at / and /examples/<number>.png."""
    routes = Blueprint("page", __name__)

    @routes.get("/")
    def page() -> str:
        return render_template(
            "page.html",
            identity=identity,
            classes=package.classes,
            size=package.image_size,
            facts=_facts(package.provenance),
            accuracy=_accuracy(package.provenance),
            examples=[golden.label for golden in package.golden],
            accepted=_ACCEPTED,
            wants_token=bool(settings.token),
            # Counts are nobody's business but of who has the token.
            drift=None if settings.token else drift.judgement(),
            verdicts=_VERDICTS,
            false_alarms=settings.drift_false_alarms,
            max_upload=settings.max_upload,
        )

    @routes.get("/examples/<int:number>.png")
    def example(number: int) -> Response:
        if number >= len(package.golden):
            raise not_found(f"there are {len(package.golden)} examples, from 0")
        return Response(package.golden[number].png, mimetype="image/png")

    return routes


def _facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the model card tells beyond the identity, in the words of the page."""
    facts = []
    if source := provenance.get("data_source"):
        # Not where it lay: an address may hold a secret, and a path is nobody's business.
        facts.append(("Trained on", PurePosixPath(urlsplit(str(source)).path).name))
    if created := provenance.get("created"):
        facts.append(("Trained", str(created)[:10]))
    if accuracy := _accuracy(provenance):
        facts.append(("Accuracy", f"{accuracy} of validation images"))
    if precision := provenance.get("precision"):
        words = {"int8": "8-bit integers", "float32": "32-bit floats"}
        facts.append(("Arithmetic", words.get(precision["chosen"], precision["chosen"])))
    return facts


def _accuracy(provenance: Mapping[str, Any]) -> str:
    """The share of validation images that were right, as the page writes it; "" where it is not known."""
    accuracy = provenance.get("validation_accuracy")
    return "" if accuracy is None else f"{100 * float(accuracy):.1f} %"
