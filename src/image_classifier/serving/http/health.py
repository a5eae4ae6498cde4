"""Liveness and readiness. Neither waits for the model."""

import threading

from image_classifier.serving.http.error_responses import unavailable

LIVE_PATH, READY_PATH = "/healthz", "/readyz"


def live() -> dict[str, str]:
    """What /healthz answers."""
    return {"status": "live"}


def ready(draining: threading.Event) -> dict[str, str]:
    """What /readyz answers; raises RequestError (503) from the moment `draining` is set."""
    check_ready(draining)
    return {"status": "ready"}


def check_ready(draining: threading.Event) -> None:
    """Raises RequestError (503) where the server is about to stop."""
    if draining.is_set():
        raise unavailable("draining", "the server is stopping; another one answers")
