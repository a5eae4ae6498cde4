import os

import pytest

from image_classifier.registry.mlflow_environment import configure_mlflow, mlflow_environment

VARIABLES = ("TIMEOUT", "MAX_RETRIES", "BACKOFF_FACTOR")


@pytest.mark.parametrize(
    ("timeout", "request_timeout", "retries"), [(0.1, 1, 0), (1, 1, 0), (5, 5, 0), (10, 4, 1), (30, 12, 1)]
)
def test_all_attempts_of_a_request_end_within_the_timeout(monkeypatch, timeout, request_timeout, retries):
    for name in VARIABLES:
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "before")
    configure_mlflow(timeout)
    values = tuple(int(os.environ[f"MLFLOW_HTTP_REQUEST_{name}"]) for name in VARIABLES)
    assert values == (request_timeout, retries, 1)
    pause = 2 * retries  # urllib3 waits for BACKOFF_FACTOR * 2 ** 1 before a retry
    assert (retries + 1) * request_timeout + pause <= max(timeout, 1)


def test_variables_are_set_within_the_block_only(monkeypatch):
    monkeypatch.setenv("MLFLOW_A", "before")
    monkeypatch.delenv("MLFLOW_B", raising=False)
    with mlflow_environment(MLFLOW_A="1", MLFLOW_B="2"):
        assert (os.environ["MLFLOW_A"], os.environ["MLFLOW_B"]) == ("1", "2")
    assert os.environ["MLFLOW_A"] == "before"
    assert "MLFLOW_B" not in os.environ
