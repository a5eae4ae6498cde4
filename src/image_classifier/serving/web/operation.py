"""The routes for whoever operates the server: probes, counts and drift."""

import threading

import orjson
from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from image_classifier.package import Identity
from image_classifier.serving.http import health
from image_classifier.serving.observe.drift_windows import Drift
from image_classifier.serving.observe.metrics import Metrics


def operation_routes(
    metrics: Metrics, drift: Drift, identity: Identity, draining: threading.Event
) -> Blueprint:
    """/healthz, /readyz, /metrics and /drift."""
    routes = Blueprint("operation", __name__)

    @routes.get(health.LIVE_PATH)
    def live() -> dict[str, str]:
        return health.live()

    @routes.get(health.READY_PATH)
    def ready() -> dict[str, str]:
        return health.ready(draining)

    @routes.get("/metrics")
    def counts() -> Response:
        return Response(metrics.text(), content_type=CONTENT_TYPE_LATEST)

    @routes.get("/drift")
    def seen() -> Response:
        # Not as Flask does it, which sorts the keys: the verdict comes first.
        return Response(orjson.dumps(drift.report(identity)) + b"\n", mimetype="application/json")

    return routes
