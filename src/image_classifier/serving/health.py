"""Liveness and readiness. Neither waits for the model."""

import threading

from flask import Blueprint

from image_classifier.serving.errors import unavailable


def health_routes(draining: threading.Event) -> Blueprint:
    """/healthz and /readyz; from the moment `draining` is set, only the first one answers 200."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def live() -> dict[str, str]:
        return {"status": "live"}

    @routes.get("/readyz")
    def ready() -> dict[str, str]:
        check_ready(draining)
        return {"status": "ready"}

    return routes


def check_ready(draining: threading.Event) -> None:
    """Raises RequestError (503) where the server is about to stop."""
    if draining.is_set():
        raise unavailable("draining", "the server is stopping; another one answers")
