"""Walk from a workload down to the pods and collect, in the order of the chain, what is not as it should be.

Workload → what each resource stamped → TaskRun → its pod and the failed step's log; or InferenceService →
Revision → pods → logs and events. Only resources that are not well are looked into.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from image_classifier.errors import ClusterError, ForbiddenError
from image_classifier.platform.cluster import (
    EVENT,
    INFERENCE_SERVICE,
    POD,
    REVISION,
    WORKLOAD,
    Cluster,
    Object,
    Objects,
)
from image_classifier.platform.diagnosis import evidence as of
from image_classifier.platform.diagnosis.evidence import Evidence, Resource, Serving, Share, Sign, State
from image_classifier.platform.diagnosis.object_status import (
    bad_result_of,
    called,
    conditions_of,
    is_over,
    is_true,
    kind_of,
    model_of,
    output_of,
    silent,
    since,
    state_of,
    time_of,
    verdict_of,
)
from image_classifier.platform.workload import labels_of, params_of, runs_of
from image_classifier.text import shortened

LOG_LINES = 20
LONG_START_SECONDS = 60.0
"""A server that has run for longer and is not ready has some trouble; starting takes a few seconds."""
_TRAIN, _SERVE = "train", "serve"
"""Resources of the chain."""
_MOST_EVENTS = 5
_OF_REVISION = "serving.knative.dev/revision"
_SERVER, _PROXY = "kserve-container", "queue-proxy"
"""Containers of a server's pod."""

Found = TypeVar("Found")


def collect(cluster: Cluster, name: str, now: datetime) -> Evidence:
    """All that speaks against a workload, and what it serves.

    Raises ClusterError where the cluster cannot be asked or has no such workload. What this user may not read
    below the workload is left out and named.
    """
    workload = cluster.get(WORKLOAD, name)
    if workload is None:
        others = [item["metadata"]["name"] for item in cluster.list(WORKLOAD)]
        there = f"there are: {shortened(others)}" if others else "it has none; --namespace names another"
        raise ClusterError(f"there is no workload {name} in namespace {cluster.namespace}; {there}")
    walk = _Walk(cluster, name, now)
    status = workload.get("status", {})
    listed = status.get("resources", [])
    silent_ones = silent(listed)
    return Evidence(
        workload=name,
        namespace=cluster.namespace,
        params=params_of(workload),
        seen=status.get("observedGeneration") == workload["metadata"].get("generation"),
        # With resources, these repeat what the first of them says.
        signs=() if listed else tuple(conditions_of(workload)),
        resources=tuple(walk.resource(item, silent_ones) for item in listed),
        serving=walk.allowed(walk.serving, None),
        passed=output_of(listed, _TRAIN, "revision"),
        unread=tuple(dict.fromkeys(walk.unread)),
    )


@dataclass
class _Walk:
    cluster: Cluster
    workload: str
    now: datetime
    unread: list[str] = field(default_factory=list)

    def allowed(self, look: Callable[[], Found], otherwise: Found) -> Found:
        """What `look` gives, or `otherwise` where this user may not read it."""
        try:
            return look()
        except ForbiddenError as error:
            self.unread.append(str(error))
            return otherwise

    def resource(self, item: Object, silent_ones: set[str]) -> Resource:
        """A resource of the workload's status, and what it stamped."""
        state = state_of(item, silent_ones)
        reference = item.get("stampedRef")
        stamped = f"{reference['kind']} {reference['name']}" if reference else ""
        signs: list[Sign] = []
        retried = False
        if state in (State.RUNNING, State.FAILED):
            if reference:
                look = {"TaskRun": self.runs, "PipelineRun": self.runs, "InferenceService": self.service}
                found = look.get(reference["kind"], self.other)
                signs += self.allowed(lambda: list(found(item["name"], reference)), [])
            retried = state is State.RUNNING and any(_FIRST_TRY in sign.of for sign in signs)
            told = conditions_of(item, of_what=f"Workload {self.workload}, resource {item['name']}")
            # That a value cannot be read yet is all that Cartographer knows of a run; below stands more.
            signs += [sign for sign in told if not (signs and sign.reason == "MissingValueAtPath")]
        return Resource(
            item["name"], state, stamped, since(item, "Ready"), tuple(dict.fromkeys(signs)), retried
        )

    def other(self, _: str, reference: Mapping[str, Any]) -> Iterator[Sign]:
        """Of an object that has nothing below it, its conditions."""
        stamped = self.cluster.get(kind_of(reference), reference["name"])
        if stamped is not None:
            yield from conditions_of(stamped)

    def runs(self, resource: str, _: Mapping[str, Any]) -> Iterator[Sign]:
        """Of the newest run of a step. (The reference may name an older one with the same spec.)"""
        runs = runs_of(self.cluster, self.workload, resource)
        if not runs:
            return
        run = runs[0]
        name, status = called(run), run.get("status", {})
        yield from bad_result_of(name, status)
        yield from self.step_log(name, status)
        if status.get("podName") and not is_over(status):
            yield from self.pod(status["podName"])
        yield from conditions_of(run)
        for tried in status.get("retriesStatus", [])[-1:]:
            yield from bad_result_of(f"{name}{_FIRST_TRY}", tried)
            yield from self.step_log(f"{name}{_FIRST_TRY}", tried)
            yield from conditions_of({**run, "status": tried}, of_what=f"{name}{_FIRST_TRY}")

    def step_log(self, name: str, status: Mapping[str, Any]) -> Iterator[Sign]:
        """The last lines of the step that failed, with how it ended, or of the one that refused, which is the last."""
        steps = status.get("steps", [])
        failed = [step for step in steps if step.get("terminated", {}).get("exitCode", 0) != 0]
        refused = steps[-1:] if verdict_of(status)[0] == "refused" else []
        for step in (failed or refused)[:1]:
            of_step, ended = f"{name}, step {step['name']}", step["terminated"]
            if failed:
                told = f"it ended with status {ended['exitCode']}"
                yield Sign(of.CONTAINER, of_step, ended.get("reason", ""), told)
            yield from self.log(of_step, status["podName"], step["container"])

    def log(self, name: str, pod: str, container: str) -> Iterator[Sign]:
        printed = self.allowed(lambda: self.cluster.log(pod, container, lines=LOG_LINES), "")
        if printed.strip():
            yield Sign(of.LOG, name, "", printed.rstrip())

    def service(self, _: str, reference: Mapping[str, Any]) -> Iterator[Sign]:
        """Of an inference service, its newest revision and the pods of that."""
        service = self.cluster.get(INFERENCE_SERVICE, reference["name"])
        if service is None:
            return
        status = service.get("status", {})
        name = called(service)
        model = status.get("modelStatus", {})
        if model.get("transitionStatus") in ("BlockedByFailedLoad", "InvalidSpec"):
            failure = model.get("lastFailureInfo", {})
            yield Sign(of.CONTAINER, name, failure.get("reason", ""), failure.get("message", ""))
        revision = status.get("components", {}).get("predictor", {}).get("latestCreatedRevision")
        if revision:
            yield from self.revision(revision)
        yield from conditions_of(service)

    def revision(self, name: str) -> Iterator[Sign]:
        pods = self.allowed(lambda: self.cluster.list(POD, labels={_OF_REVISION: name}), Objects())
        for pod in pods:
            yield from self.pod_signs(pod)
        if not pods:
            yield from self.events(f"{name}-deployment-", "involvedObject.kind=ReplicaSet")
        revision = self.cluster.get(REVISION, name)
        if revision is not None:
            yield from conditions_of(revision)

    def pod(self, name: str) -> Iterator[Sign]:
        pod = self.allowed(lambda: self.cluster.get(POD, name), None)
        if pod is not None:
            yield from self.pod_signs(pod)

    def pod_signs(self, pod: Object) -> Iterator[Sign]:
        """Of a pod that is not ready: its containers, what they printed, and warnings."""
        name, status = called(pod), pod.get("status", {})
        if is_true(pod, "Ready") or "deletionTimestamp" in pod["metadata"]:
            return
        yield from conditions_of(pod, only=("PodScheduled",))
        own = pod["metadata"]["name"]
        troubled = False
        for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            signs = list(self.container(f"{name}, container {container['name']}", container))
            yield from signs
            if any(sign.reason in _AFTER_A_START for sign in signs):
                # Knative's proxy finds the server unready; what the server printed may say why.
                prints = _SERVER if container["name"] == _PROXY else container["name"]
                yield from self.log(f"{name}, container {prints}", own, prints)
            troubled = troubled or bool(signs)
        if troubled or status.get("reason"):
            yield from self.events(own, f"involvedObject.kind=Pod,involvedObject.name={own}")
        if status.get("reason"):
            yield Sign(of.CONDITION, name, status["reason"], status.get("message", ""))

    def container(self, name: str, status: Mapping[str, Any]) -> Iterator[Sign]:
        """What keeps a container from running, or from being ready."""
        state = status.get("state", {})
        waiting, running, ended = (state.get(key, {}) for key in ("waiting", "running", "terminated"))
        last = status.get("lastState", {}).get("terminated", {})
        for stopped in (ended, last):
            if stopped.get("exitCode", 0) != 0:
                told = stopped.get("message") or f"it ended with status {stopped['exitCode']}"
                yield Sign(of.CONTAINER, name, stopped.get("reason", "Error"), told)
        if waiting.get("reason") not in (None, *_STILL_STARTING):
            yield Sign(of.CONTAINER, name, waiting["reason"], waiting.get("message", ""))
        if running.get("startedAt") and not status.get("ready"):
            seconds = (self.now - time_of(running["startedAt"])).total_seconds()
            if seconds > LONG_START_SECONDS:
                told = f"it has run for {seconds:.0f} s without being ready"
                yield Sign(of.CONTAINER, name, _NOT_READY, told)

    def events(self, name: str, fields: str) -> Iterator[Sign]:
        """The last warnings, of those that a field selector chooses, about objects whose name begins so."""
        listed = self.allowed(lambda: self.cluster.list(EVENT, fields=fields), Objects())
        about = [item for item in listed if item["involvedObject"]["name"].startswith(name)]
        warnings = [item for item in about if item.get("type") == "Warning" and item["reason"] != _HARMLESS]
        warnings.sort(key=lambda item: str(item.get("lastTimestamp") or item.get("eventTime")), reverse=True)
        for item in warnings[:_MOST_EVENTS]:
            told_of = f"{item['involvedObject']['kind']} {item['involvedObject']['name']}"
            yield Sign(of.EVENT, told_of, item.get("reason", ""), item.get("message", ""))

    def serving(self) -> Serving | None:
        """What the workload's own inference service gives requests to."""
        for service in self.cluster.list(INFERENCE_SERVICE, labels=labels_of(self.workload, _SERVE)):
            status = service.get("status", {})
            traffic = status.get("components", {}).get("predictor", {}).get("traffic", [])
            shares = [self.share(entry) for entry in traffic if entry.get("percent")]
            return Serving(status.get("url", ""), tuple(shares))
        return None

    def share(self, entry: Mapping[str, Any]) -> Share:
        revision = self.cluster.get(REVISION, entry["revisionName"]) or {}
        model = model_of(revision.get("spec", {}).get("containers", []))
        return Share(entry["revisionName"], model, entry["percent"], since(revision, "Ready"))


_HARMLESS = "FailedToRetrieveImagePullSecret"
"""The secret may be absent; a pull that needed it says so itself."""
_FIRST_TRY = ", first try"
_NOT_READY = "NotReady"
_STILL_STARTING = ("ContainerCreating", "PodInitializing")
_AFTER_A_START = ("Error", "CrashLoopBackOff", "OOMKilled", _NOT_READY)
"""Reasons of a container that ran, so that it may have printed something."""
