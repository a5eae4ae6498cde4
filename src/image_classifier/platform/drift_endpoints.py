"""Drift counts of running servers, from the endpoint /drift of each pod.

Each pod is queried at its own address, because a service's address reaches any one of its pods.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from image_classifier.addresses import address_of, open_directly, open_url, request_to
from image_classifier.errors import ServerError
from image_classifier.monitoring import ServerCounts, counts_from_json
from image_classifier.platform.cluster import POD, Cluster
from image_classifier.platform.workload import INFERENCE_SERVICE_LABEL

_PATH = "/drift"
_PORT = 8080
_TIMEOUT_SECONDS = 10.0
_PREDICTOR_LABELS = {"component": "predictor"}
_HINTS = {401: "; set its token (IMAGE_CLASSIFIER_TOKEN)", 404: "; it runs an older version of this program"}


@dataclass(frozen=True)
class ServerReport:
    """A server's model, and its counts for drift detection."""

    address: str
    model: str
    version: str
    has_reference: bool  # whether its model has reference statistics
    counts: ServerCounts


def server_addresses(cluster: Cluster, workload: str) -> list[str]:
    """The addresses of a workload's running server pods; raises ClusterError."""
    pods = cluster.list(POD, labels={INFERENCE_SERVICE_LABEL: workload, **_PREDICTOR_LABELS})
    running = [pod["status"] for pod in pods if pod["status"].get("phase") == "Running"]
    return [address_of(status["podIP"], _PORT) for status in running if status.get("podIP")]


def fetch_server_report(address: str, token: str, *, is_pod: bool) -> ServerReport:
    """Request the counts of a server, past any proxy if it is a pod; raises ServerError."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    opener = open_directly if is_pod else open_url
    try:
        with opener(request_to(f"{address.rstrip('/')}{_PATH}", headers), timeout=_TIMEOUT_SECONDS) as response:
            content = response.read()
    except urllib.error.HTTPError as error:
        raise ServerError(f"{address} answers {error.code} to {_PATH}{_HINTS.get(error.code, '')}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ServerError(f"{address} does not answer ({reason}); is it running?") from None
    try:
        return _report(address, json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"{address} is not a server of this program: its answer has another format ({error!r})"
        ) from None


def _report(address: str, content: Mapping[str, Any]) -> ServerReport:
    counts = content["counts"]
    return ServerReport(
        address=address,
        model=content["model"]["name"],
        version=content["model"]["version"],
        has_reference=content["verdict"] != "no_reference",
        counts=counts_from_json(counts["instance"], counts),
    )
