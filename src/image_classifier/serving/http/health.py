"""Liveness and readiness. Neither waits for the model."""

import threading

from image_classifier.serving.http.error_responses import unavailable

LIVE_PATH, READY_PATH = "/healthz", "/readyz"


def live() -> dict[str, str]:
    return {"status": "live"}


def ready(draining: threading.Event) -> dict[str, str]:
    check_ready(draining)
    return {"status": "ready"}


def check_ready(draining: threading.Event) -> None:
    """Raise RequestError (503) if the server is about to stop."""
    if draining.is_set():
        raise unavailable("draining", "the server is shutting down; send the request again")
