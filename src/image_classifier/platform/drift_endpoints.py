"""What servers that run have counted: asked of each by itself, for an address in front of several asks any of them."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from image_classifier.errors import ServerError
from image_classifier.monitoring import ServerCounts
from image_classifier.platform.cluster import POD, Cluster
from image_classifier.platform.workload import OF_SERVICE

PATH = "/drift"
_PORT = 8080
_SECONDS = 10.0
_LABELS = {"component": "predictor"}


@dataclass(frozen=True)
class ServerReport:
    """What a server said of itself and of what it has seen."""

    address: str
    model: str
    version: str
    has_reference: bool
    counts: ServerCounts


def addresses_of(cluster: Cluster, workload: str) -> list[str]:
    """The addresses of a workload's servers that run, each by itself; raises ClusterError."""
    pods = cluster.list(POD, labels={OF_SERVICE: workload, **_LABELS})
    running = [pod["status"] for pod in pods if pod["status"].get("phase") == "Running"]
    return [f"http://{_host(status['podIP'])}:{_PORT}" for status in running if status.get("podIP")]


def ask_server(address: str, token: str) -> ServerReport:
    """Ask one server for its counts; raises ServerError."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{address.rstrip('/')}{PATH}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            content = response.read()
    except urllib.error.HTTPError as error:
        hint = {401: "; give its token (IMAGE_CLASSIFIER_TOKEN)", 404: "; it is of an earlier version"}
        raise ServerError(f"{address} answers {error.code} to {PATH}{hint.get(error.code, '')}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ServerError(f"{address} does not answer ({reason}); is it running?") from None
    try:
        return _report(address, json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"{address} does not answer as a server of ours ({error!r})") from None


def _report(address: str, told: Mapping[str, Any]) -> ServerReport:
    counts = told["counts"]
    return ServerReport(
        address=address,
        model=told["model"]["name"],
        version=told["model"]["version"],
        has_reference=told["verdict"] != "no_reference",
        counts=ServerCounts(counts["instance"], int(counts["images"]), counts["features"]),
    )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
