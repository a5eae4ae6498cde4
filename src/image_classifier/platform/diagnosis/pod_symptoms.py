"""Symptoms of pods: container states, logs and events."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeVar

from image_classifier.errors import ForbiddenError
from image_classifier.platform.cluster import EVENT, POD, Cluster, Kind, Object, Objects
from image_classifier.platform.diagnosis.evidence import Origin, Symptom, condition_symptoms
from image_classifier.platform.object_status import is_true, object_name, parse_time

NOT_READY = "NotReady"  # reason of a symptom: the container runs, but its readiness probe fails
SLOW_START_SECONDS = 60.0  # a server that is not ready after this time has a problem; starting takes a few seconds
_LOG_LINES = 20
_MAX_EVENTS = 5
_REVISION_LABEL = "serving.knative.dev/revision"
_SERVER, _PROXY = "kserve-container", "queue-proxy"  # containers of a server's pod
_STARTING_REASONS = ("ContainerCreating", "PodInitializing")
_STARTED_REASONS = ("Error", "CrashLoopBackOff", "OOMKilled", NOT_READY)  # of containers that may have a log
_HARMLESS_EVENT = "FailedToRetrieveImagePullSecret"
"""The secret is optional; if a pull needs it, the pull itself fails with a message."""

Content = TypeVar("Content")


class PermittedReader:
    """Reads a cluster; a request that is denied reads nothing, and its error is added to `denied`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.denied: list[str] = []

    def get(self, kind: Kind, name: str) -> Object | None:
        return self._permitted(lambda: self._cluster.get(kind, name), None)

    def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None, fields: str = "") -> Objects:
        return self._permitted(lambda: self._cluster.list(kind, labels=labels, fields=fields), Objects())

    def pod_log(self, pod: str, container: str) -> str:
        return self._permitted(lambda: self._cluster.pod_log(pod, container, lines=_LOG_LINES), "")

    def _permitted(self, read: Callable[[], Content], default: Content) -> Content:
        try:
            return read()
        except ForbiddenError as error:
            self.denied.append(str(error))
            return default


def log_symptoms(reader: PermittedReader, reported_by: str, pod: str, container: str) -> Iterator[Symptom]:
    """The last lines of a container's log."""
    text = reader.pod_log(pod, container)
    if text.strip():
        yield Symptom(Origin.LOG, reported_by, "", text.rstrip())


def revision_symptoms(reader: PermittedReader, revision: str, now: datetime) -> Iterator[Symptom]:
    """Symptoms of a Knative revision's pods or, if it has none, of the failure to create them."""
    pods = reader.list(POD, labels={_REVISION_LABEL: revision})
    for pod in pods:
        yield from pod_symptoms(reader, pod, now)
    if not pods:
        yield from _events(reader, f"{revision}-deployment-", "involvedObject.kind=ReplicaSet")


def pod_symptoms(reader: PermittedReader, pod: Object, now: datetime) -> Iterator[Symptom]:
    """Symptoms of a pod that is not ready: its containers, their logs, and warning events."""
    name, reporter, status = pod["metadata"]["name"], object_name(pod), pod.get("status", {})
    if is_true(pod, "Ready") or "deletionTimestamp" in pod["metadata"]:
        return
    yield from condition_symptoms(pod, types=("PodScheduled",))
    has_symptoms = False
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        symptoms = list(_container_symptoms(f"{reporter}, container {container['name']}", container, now))
        yield from symptoms
        if any(symptom.reason in _STARTED_REASONS for symptom in symptoms):
            # Knative's proxy reports that the server is not ready; the server's own log may say why.
            logging = _SERVER if container["name"] == _PROXY else container["name"]
            yield from log_symptoms(reader, f"{reporter}, container {logging}", name, logging)
        has_symptoms = has_symptoms or bool(symptoms)
    if has_symptoms or status.get("reason"):
        yield from _events(reader, name, f"involvedObject.kind=Pod,involvedObject.name={name}")
    if status.get("reason"):
        yield Symptom(Origin.CONDITION, reporter, status["reason"], status.get("message", ""))


def _container_symptoms(reporter: str, status: Mapping[str, Any], now: datetime) -> Iterator[Symptom]:
    state = status.get("state", {})
    waiting, running, ended = (state.get(key, {}) for key in ("waiting", "running", "terminated"))
    last = status.get("lastState", {}).get("terminated", {})
    for stopped in (ended, last):
        if stopped.get("exitCode", 0) != 0:
            message = stopped.get("message") or f"it exited with status {stopped['exitCode']}"
            yield Symptom(Origin.CONTAINER, reporter, stopped.get("reason", "Error"), message)
    if waiting.get("reason") not in (None, *_STARTING_REASONS):
        yield Symptom(Origin.CONTAINER, reporter, waiting["reason"], waiting.get("message", ""))
    if running.get("startedAt") and not status.get("ready"):
        seconds = (now - parse_time(running["startedAt"])).total_seconds()
        if seconds > SLOW_START_SECONDS:
            message = f"it has been running for {seconds:,.0f} s and is not ready"
            yield Symptom(Origin.CONTAINER, reporter, NOT_READY, message)


def _events(reader: PermittedReader, prefix: str, fields: str) -> Iterator[Symptom]:
    """The latest warnings that match a field selector, about objects whose names have a prefix."""
    warnings = [
        event
        for event in reader.list(EVENT, fields=fields)
        if event["involvedObject"]["name"].startswith(prefix)
        and event.get("type") == "Warning"
        and event["reason"] != _HARMLESS_EVENT
    ]
    warnings.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime")), reverse=True)
    for event in warnings[:_MAX_EVENTS]:
        about = f"{event['involvedObject']['kind']} {event['involvedObject']['name']}"
        yield Symptom(Origin.EVENT, about, event.get("reason", ""), event.get("message", ""))
