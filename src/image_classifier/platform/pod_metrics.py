"""Counters of the server pods of an inference service, from the endpoint /metrics of each pod."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from image_classifier.addresses import address_of, open_directly
from image_classifier.monitoring import ResponseCounts
from image_classifier.platform.cluster import POD, Cluster, Object
from image_classifier.platform.workload import INFERENCE_SERVICE_LABEL

_PREDICTION_ROUTES = ("/predict", ":predict", "/infer")
"""Endings of the routes that are compared; /explain is left out, as it takes long with any revision."""
_SERVER_CONTAINER = "kserve-container"
_IMAGE_VARIABLE = "IMAGE_CLASSIFIER_IMAGE"
_TIMEOUT_SECONDS = 2.0

ServedPair = tuple[int, str]  # model version, and server image with its digest


@dataclass(frozen=True)
class PodCounts:
    """A server pod, the pair that it serves, and its counts since it started."""

    name: str
    pair: ServedPair
    counts: ResponseCounts


def read_pod_counts(cluster: Cluster, service: str) -> list[PodCounts]:
    """The counts of an inference service's pods, without those that do not answer, as while they start or stop."""
    found = []
    for pod in cluster.list(POD, labels={INFERENCE_SERVICE_LABEL: service}):
        if text := _metrics(pod):
            samples = list(_samples(text))
            version = _version(samples)
            if version is not None:
                found.append(PodCounts(pod["metadata"]["name"], (version, _image(pod)), _counts(samples)))
    return found


def _metrics(pod: Object) -> str:
    """The text of /metrics; "" if the pod does not answer."""
    address = pod.get("status", {}).get("podIP")
    port = _container(pod).get("ports", [{}])[0].get("containerPort")
    if not address or not port:
        return ""
    try:
        with open_directly(f"{address_of(address, port)}/metrics", timeout=_TIMEOUT_SECONDS) as response:
            return str(response.read().decode())
    except OSError:
        return ""


def _container(pod: Object) -> Mapping[str, Any]:
    containers = pod["spec"]["containers"]
    return next((container for container in containers if container["name"] == _SERVER_CONTAINER), {})


def _image(pod: Object) -> str:
    variables = _container(pod).get("env", [])
    return next((each.get("value", "") for each in variables if each["name"] == _IMAGE_VARIABLE), "")


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


def _version(samples: list[Sample]) -> int | None:
    for sample in samples:
        if sample.name == "image_classifier_model":
            version = sample.labels["version"]
            return int(version) if version.isdigit() else None
    return None


def _counts(samples: list[Sample]) -> ResponseCounts:
    responses = errors = 0
    seconds = 0.0
    buckets: dict[float, int] = {}
    classes: dict[str, int] = {}
    for sample in samples:
        if sample.name == "image_classifier_requests_by_class_total":
            classes[sample.labels["class"]] = int(sample.value)
        if not sample.labels.get("route", "").endswith(_PREDICTION_ROUTES):
            continue
        if sample.name == "image_classifier_requests_total":
            responses += int(sample.value)
            errors += int(sample.value) if int(sample.labels["status"]) >= 500 else 0
        elif sample.name == "image_classifier_request_seconds_sum":
            seconds += sample.value
        elif sample.name == "image_classifier_request_seconds_bucket" and sample.labels["le"] != "+Inf":
            bound = float(sample.labels["le"])
            buckets[bound] = buckets.get(bound, 0) + int(sample.value)
    return ResponseCounts(responses, errors, seconds, buckets, classes)


class CounterIncrements:
    """How much the counts of each pair grew between two readings.

    At the first reading, the growth is 0. Pods that appear later count from 0.
    """

    def __init__(self) -> None:
        self._last: dict[str, ResponseCounts] | None = None

    def since_last(self, pods: list[PodCounts]) -> dict[ServedPair, ResponseCounts]:
        """The growth since the last call, for every pair with a pod."""
        last = {pod.name: pod.counts for pod in pods} if self._last is None else self._last
        grown: dict[ServedPair, ResponseCounts] = {}
        for pod in pods:
            before = last.get(pod.name, ResponseCounts())
            if before.responses > pod.counts.responses:  # the container was restarted
                before = ResponseCounts()
            grown[pod.pair] = grown.get(pod.pair, ResponseCounts()) + (pod.counts - before)
        # A pod that does not answer this time keeps its last counts.
        self._last = {**last, **{pod.name: pod.counts for pod in pods}}
        return grown
