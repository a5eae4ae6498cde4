"""Collect evidence: from a workload down to its pods, in the order of the supply chain.

Workload → the object stamped for each resource → TaskRun → its pod and the log of the failed step; or InferenceService
→ Revision → pods → logs and events. Resources that are ready are not inspected.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from image_classifier.platform.cluster import INFERENCE_SERVICE, POD, REVISION, TASK_RUN, Cluster, Object
from image_classifier.platform.diagnosis.evidence import (
    Evidence,
    LiveService,
    Origin,
    Resource,
    ResourceState,
    Symptom,
    TrafficShare,
    condition_symptoms,
    result_symptoms,
)
from image_classifier.platform.diagnosis.pod_symptoms import (
    PermittedReader,
    log_symptoms,
    pod_symptoms,
    revision_symptoms,
)
from image_classifier.platform.object_status import (
    condition_status,
    is_true,
    kind_of,
    object_name,
    output_of,
    results_of,
    transition_time,
)
from image_classifier.platform.workload import newest_first, params_of, require_workload, resource_labels
from image_classifier.registry import NOT_ACCEPTED

_TRAIN, _SERVE = "train", "serve"  # resources of the supply chain
_FIRST_ATTEMPT = ", first attempt"
_VALUE_MISSING = "MissingValueAtPath"
"""Cartographer's reason for any object that has no output yet; symptoms of the object itself say more."""


def collect_evidence(cluster: Cluster, name: str, now: datetime) -> Evidence:
    """The symptoms of a workload, and what is live.

    Raises ClusterError if the cluster cannot be reached or has no such workload. Requests below the workload that are
    denied are listed in the evidence.
    """
    workload = require_workload(cluster, name)
    status = workload.get("status", {})
    resources = status.get("resources", [])
    collector = _Collector(PermittedReader(cluster), name, now)
    return Evidence(
        workload=name,
        namespace=cluster.namespace,
        params=params_of(workload),
        is_current=status.get("observedGeneration") == workload["metadata"].get("generation"),
        # With resources, the workload's conditions repeat those of the first one that is not ready.
        symptoms=() if resources else tuple(condition_symptoms(workload)),
        resources=tuple(collector.resource(item, _without_output(resources)) for item in resources),
        live=collector.live_service(),
        accepted_version=output_of(resources, _TRAIN, "revision"),
        denied=tuple(dict.fromkeys(collector.reader.denied)),
    )


class _Collector:
    def __init__(self, reader: PermittedReader, workload: str, now: datetime) -> None:
        self.reader = reader
        self._workload = workload
        self._now = now

    def resource(self, item: Object, without_output: set[str]) -> Resource:
        """A resource of the workload's status, with the symptoms of the object stamped for it."""
        state = _state_of(item, without_output)
        reference = item.get("stampedRef")
        stamped = f"{reference['kind']} {reference['name']}" if reference else ""
        symptoms: list[Symptom] = []
        if state in (ResourceState.RUNNING, ResourceState.FAILED):
            symptoms = list(self._stamped(item["name"], reference)) if reference else []
            reporter = f"Workload {self._workload}, resource {item['name']}"
            own = condition_symptoms(item, reported_by=reporter)
            symptoms += [each for each in own if not (symptoms and each.reason == _VALUE_MISSING)]
        is_retry = state is ResourceState.RUNNING and any(_FIRST_ATTEMPT in symptom.reported_by for symptom in symptoms)
        since = transition_time(item, "Ready")
        return Resource(item["name"], state, stamped, since, tuple(dict.fromkeys(symptoms)), is_retry)

    def live_service(self) -> LiveService | None:
        """The workload's own inference service, and the revisions that it sends requests to."""
        labels = resource_labels(self._workload, _SERVE)
        for service in self.reader.list(INFERENCE_SERVICE, labels=labels):
            status = service.get("status", {})
            targets = status.get("components", {}).get("predictor", {}).get("traffic", [])
            shares = tuple(self._share(target) for target in targets if target.get("percent"))
            return LiveService(status.get("url", ""), shares)
        return None

    def _share(self, target: Mapping[str, Any]) -> TrafficShare:
        revision = self.reader.get(REVISION, target["revisionName"]) or {}
        model = _model_uri(revision.get("spec", {}).get("containers", []))
        return TrafficShare(target["revisionName"], model, target["percent"], transition_time(revision, "Ready"))

    def _stamped(self, resource: str, reference: Mapping[str, Any]) -> Iterator[Symptom]:
        if reference["kind"] in ("TaskRun", "PipelineRun"):
            # The reference may name an older run with the same spec, so the newest one is looked up.
            labels = resource_labels(self._workload, resource)
            for run in newest_first(self.reader.list(TASK_RUN, labels=labels))[:1]:
                yield from self._run(run)
        elif reference["kind"] == "InferenceService":
            service = self.reader.get(INFERENCE_SERVICE, reference["name"])
            if service is not None:
                yield from self._service(service)
        else:
            stamped = self.reader.get(kind_of(reference), reference["name"])
            if stamped is not None:
                yield from condition_symptoms(stamped)

    def _run(self, run: Object) -> Iterator[Symptom]:
        name, status = object_name(run), run.get("status", {})
        yield from result_symptoms(name, status)
        yield from self._step(name, status)
        is_over = "completionTime" in status
        if status.get("podName") and not is_over:
            pod = self.reader.get(POD, status["podName"])
            if pod is not None:
                yield from pod_symptoms(self.reader, pod, self._now)
        yield from condition_symptoms(run)
        for attempt in status.get("retriesStatus", [])[-1:]:
            reporter = f"{name}{_FIRST_ATTEMPT}"
            yield from result_symptoms(reporter, attempt)
            yield from self._step(reporter, attempt)
            yield from condition_symptoms({**run, "status": attempt}, reported_by=reporter)

    def _step(self, run: str, status: Mapping[str, Any]) -> Iterator[Symptom]:
        """The exit status and log of the step that failed, or the log of the last step if it refused."""
        steps = status.get("steps", [])
        failed = [step for step in steps if step.get("terminated", {}).get("exitCode", 0) != 0]
        is_refused = results_of(status).get("verdict") in NOT_ACCEPTED
        for step in (failed or (steps[-1:] if is_refused else []))[:1]:
            reporter, ended = f"{run}, step {step['name']}", step["terminated"]
            if failed:
                message = f"it exited with status {ended['exitCode']}"
                yield Symptom(Origin.CONTAINER, reporter, ended.get("reason", ""), message)
            yield from log_symptoms(self.reader, reporter, status["podName"], step["container"])

    def _service(self, service: Object) -> Iterator[Symptom]:
        status = service.get("status", {})
        model = status.get("modelStatus", {})
        if model.get("transitionStatus") in ("BlockedByFailedLoad", "InvalidSpec"):
            failure = model.get("lastFailureInfo", {})
            yield Symptom(Origin.CONTAINER, object_name(service), failure.get("reason", ""), failure.get("message", ""))
        newest = status.get("components", {}).get("predictor", {}).get("latestCreatedRevision")
        if newest:
            yield from revision_symptoms(self.reader, newest, self._now)
            revision = self.reader.get(REVISION, newest)
            if revision is not None:
                yield from condition_symptoms(revision)
        yield from condition_symptoms(service)


def _without_output(resources: Iterable[Object]) -> set[str]:
    """The resources that pass on nothing at present. A status may still list outputs of earlier runs."""
    return {
        item["name"]
        for item in resources
        if not item.get("outputs") or condition_status(item, "ResourceSubmitted") == "False"
    }


def _state_of(item: Object, without_output: set[str]) -> ResourceState:
    if is_true(item, "Ready"):
        return ResourceState.READY
    submitted, healthy = condition_status(item, "ResourceSubmitted"), condition_status(item, "Healthy")
    inputs = {each["name"] for each in item.get("inputs", [])}
    if submitted != "True" and healthy != "False" and inputs & without_output:
        return ResourceState.WAITING
    return ResourceState.FAILED if "False" in (submitted, healthy) else ResourceState.RUNNING


def _model_uri(containers: Iterable[Mapping[str, Any]]) -> str:
    """The model that a revision's server loads; "" if it has none."""
    for container in containers:
        for variable in container.get("env", []):
            if variable["name"] == "STORAGE_URI":
                return str(variable["value"]).partition("?")[0]
    return ""
