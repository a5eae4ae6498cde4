"""The routes for whoever operates the server: probes and counts."""

import threading

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from image_classifier.serving import health
from image_classifier.serving.metrics import Metrics


def operation_routes(metrics: Metrics, draining: threading.Event) -> Blueprint:
    """/healthz, /readyz and /metrics."""
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

    return routes
