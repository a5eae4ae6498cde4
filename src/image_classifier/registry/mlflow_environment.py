"""MLflow's switches that exist only as environment variables (mlflow.org/docs/latest/api_reference, "Environment")."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

_RETRY_FROM_SECONDS = 10.0
"""A shorter timeout is not divided between two attempts."""


def configure_mlflow(timeout: float) -> None:
    """Set what MLflow reads when it is imported and when it sends a request; `timeout` in seconds.

    Two attempts and the pause between them end within the timeout.
    """
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    retries = 1 if timeout >= _RETRY_FROM_SECONDS else 0
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(retries)
    os.environ["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"] = "1"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(1, int(timeout * 0.4 if retries else timeout)))


def silence_mlflow() -> None:
    """Keep MLflow's own log lines off the terminal: errors are raised, and reported once."""
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def mlflow_environment(**values: str) -> Iterator[None]:
    """Set environment variables within the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
