"""What the servers of an inference service have answered so far, pod by pod, from their /metrics."""

import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from image_classifier.monitoring import AnswerCounts
from image_classifier.platform.cluster import POD, Cluster, Object
from image_classifier.platform.workload import OF_SERVICE

_ASKING = ("/predict", ":predict", "/infer")
"""How the routes end that ask the model; /explain takes long whatever the revision."""
_CONTAINER = "kserve-container"
_IMAGE = "IMAGE_CLASSIFIER_IMAGE"
_SECONDS = 2.0

Pair = tuple[int, str]
"""Version of the model, and server image by its digest."""


@dataclass(frozen=True)
class Pod:
    """A server, what it serves and what it has answered since it started."""

    name: str
    pair: Pair
    counts: AnswerCounts


def pods_of(cluster: Cluster, service: str) -> list[Pod]:
    """The servers of an inference service that answer; one that starts or stops is left out."""
    found = []
    for item in cluster.list(POD, labels={OF_SERVICE: service}):
        if text := _metrics(item):
            samples = list(_samples(text))
            version = _version(samples)
            if version is not None:
                found.append(Pod(item["metadata"]["name"], (version, _image(item)), counts_in(samples)))
    return found


def _metrics(pod: Object) -> str:
    """The text of /metrics; "" where the pod does not give it."""
    address = pod.get("status", {}).get("podIP")
    port = _container(pod).get("ports", [{}])[0].get("containerPort")
    if not address or not port:
        return ""
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=_SECONDS) as response:
            return str(response.read().decode())
    except OSError:
        return ""


def _container(pod: Object) -> Mapping[str, Any]:
    return next((each for each in pod["spec"]["containers"] if each["name"] == _CONTAINER), {})


def _image(pod: Object) -> str:
    return next((one.get("value", "") for one in _container(pod).get("env", []) if one["name"] == _IMAGE), "")


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


def _version(samples: list[Sample]) -> int | None:
    """Of the registered model that answers."""
    for sample in samples:
        if sample.name == "image_classifier_model":
            version = sample.labels["version"]
            return int(version) if version.isdigit() else None
    return None


def counts_in(samples: list[Sample]) -> AnswerCounts:
    """The counts among the samples of one server's /metrics."""
    answers = errors = 0
    seconds = 0.0
    within: dict[float, int] = {}
    classes: dict[str, int] = {}
    for sample in samples:
        if sample.name == "image_classifier_requests_by_class_total":
            classes[sample.labels["class"]] = int(sample.value)
        if not sample.labels.get("route", "").endswith(_ASKING):
            continue
        if sample.name == "image_classifier_requests_total":
            answers += int(sample.value)
            errors += int(sample.value) if int(sample.labels["status"]) >= 500 else 0
        elif sample.name == "image_classifier_request_seconds_sum":
            seconds += sample.value
        elif sample.name == "image_classifier_request_seconds_bucket" and sample.labels["le"] != "+Inf":
            bound = float(sample.labels["le"])
            within[bound] = within.get(bound, 0) + int(sample.value)
    return AnswerCounts(answers, errors, seconds, within, classes)


class Increments:
    """What each pair has answered between one look and the next.

    A pod that is there at the first look begins with what it had answered; one that comes later, with nothing.
    """

    def __init__(self) -> None:
        self._before: dict[str, AnswerCounts] | None = None

    def since_last(self, pods: list[Pod]) -> dict[Pair, AnswerCounts]:
        """By pair, what was answered since the call before; all pairs that are there have an entry."""
        first = self._before is None
        before = self._before or {}
        grown: dict[Pair, AnswerCounts] = {}
        for pod in pods:
            had = pod.counts if first else before.get(pod.name, AnswerCounts())
            # A container that was started again counts from nothing.
            had = had if had.answers <= pod.counts.answers else AnswerCounts()
            grown[pod.pair] = grown.get(pod.pair, AnswerCounts()) + (pod.counts - had)
        # Who does not answer for a moment has not forgotten what it had counted.
        self._before = {**before, **{pod.name: pod.counts for pod in pods}}
        return grown
