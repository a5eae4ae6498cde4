"""Record what `why` reads of a workload, for tests/platform/diagnosis/test_causes.py.

    python -m tests.platform.record WORKLOAD NAME [NAMESPACE]

writes tests/platform/recorded/NAME.json: the objects with only the fields that are read, and with the names of their
cluster replaced.
"""

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from image_classifier.platform.cluster import Cluster, Kind, Object
from image_classifier.platform.diagnosis.collector import collect_evidence
from image_classifier.text import clip
from tests.platform.api_server import NAMESPACE

FOLDER = Path(__file__).with_name("recorded")
WORKLOAD = "flowers"
"""The name of the workload in every recording."""
_METADATA = ("name", "labels", "creationTimestamp", "deletionTimestamp", "generation")
_LABELS = ("carto.run/workload-name", "carto.run/resource-name", "serving.knative.dev/revision")
_STATUS = {
    "Workload": ("observedGeneration", "conditions", "resources"),
    "TaskRun": ("conditions", "completionTime", "podName", "results", "retriesStatus", "steps"),
    "Pod": ("conditions", "phase", "reason", "message", "initContainerStatuses", "containerStatuses"),
    "InferenceService": ("conditions", "components", "modelStatus", "url"),
}
_IGNORED = {
    *("templateRef", "containerID", "image", "imageID", "volumeMounts", "resources", "allocatedResources", "user"),
    *("provenance", "taskSpec", "restUrl", "grpcUrl", "severity", "lastProbeTime", "observedGeneration"),
    *("digest", "spec"),
}
"""Fields of a status that are not recorded."""
_MAX_WAITING_CHARACTERS = 60
"""Length of the message why a waiting resource cannot be stamped."""


class Recorder(Cluster):
    """A cluster that keeps what was read."""

    objects: dict[tuple[str, str], Object]
    logs: dict[str, str]

    def get(self, kind: Kind, name: str) -> Object | None:
        found = super().get(kind, name)
        self._keep([found] if found else [])
        return found

    def list(self, kind: Kind, **selectors: Any) -> list[Object]:
        found = super().list(kind, **selectors)
        self._keep(found)
        return found

    def pod_log(self, pod: str, container: str, *, lines: int) -> str:
        log = super().pod_log(pod, container, lines=lines)
        if log:
            self.logs[f"{pod}/{container}"] = log
        return log

    def _keep(self, found: "list[Object]") -> None:
        for item in found:
            self.objects[item["kind"], item["metadata"]["name"]] = item


def record(workload: str, namespace: str = "") -> dict[str, Any]:
    """The recording of everything that the collector reads of a workload."""
    cluster = Recorder.connect(namespace)
    assert isinstance(cluster, Recorder)
    cluster.objects, cluster.logs = {}, {}
    now = datetime.now(UTC)
    collect_evidence(cluster, workload, now)
    content = {
        "now": now.isoformat(timespec="seconds"),
        "objects": [_pruned(item) for item in cluster.objects.values() if item.get("type") != "Normal"],
        "logs": cluster.logs,
    }
    return dict(json.loads(_renamed(json.dumps(content), workload, cluster.namespace)))


def _pruned(item: Object) -> Object:
    kind, metadata = item["kind"], item["metadata"]
    kept: Object = {"kind": kind, "metadata": {key: metadata[key] for key in _METADATA if key in metadata}}
    if "labels" in metadata:
        labels = {key: metadata["labels"][key] for key in _LABELS if key in metadata["labels"]}
        kept["metadata"]["labels"] = labels
    if kind == "Event":
        about = item["involvedObject"]
        kept["involvedObject"] = {"kind": about["kind"], "name": about["name"]}
        kept |= {key: item.get(key) for key in ("type", "reason", "message", "lastTimestamp", "eventTime")}
        return kept
    if kind == "Workload":
        kept["spec"] = {"params": item["spec"].get("params", [])}
    if kind == "Revision":
        kept["spec"] = {"containers": _environments(item["spec"]["containers"])}
    if kind == "InferenceService":
        kept["spec"] = {"predictor": {"containers": _environments(item["spec"]["predictor"]["containers"])}}
    status = item.get("status", {})
    wanted = _STATUS.get(kind, ("conditions",))
    kept["status"] = {key: _without_ignored(status[key]) for key in wanted if key in status}
    return kept


def _environments(containers: list[Object]) -> list[Object]:
    return [
        {"env": [variable for variable in container.get("env", []) if variable["name"] == "STORAGE_URI"]}
        for container in containers
    ]


def _without_ignored(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_ignored(inner) for key, inner in value.items() if key not in _IGNORED}
        if "struct has no" in kept.get("message", ""):
            kept["message"] = clip(kept["message"], _MAX_WAITING_CHARACTERS)
        if kept.get("type") != "Ready":
            kept.pop("lastTransitionTime", None)
        return kept
    if isinstance(value, list):
        return [_without_ignored(inner) for inner in value]
    return value


def _renamed(text: str, workload: str, namespace: str) -> str:
    for pattern, name in (
        (rf"\b{re.escape(workload)}\b", WORKLOAD),
        (rf"(?<![\w-]){re.escape(namespace)}(?![\w-])", NAMESPACE),
        (r"\b[\w-]+\.local:\d+", "registry.example.org"),
        (r"\bapps\.local\b", "apps.example.org"),
        (r"\b\d+\.\d+\.\d+\.\d+(:\d+)?\b", "10.0.0.1"),
    ):
        text = re.sub(pattern, name, text)
    return text


def main() -> None:
    workload, name, *namespace = sys.argv[1:]
    write(record(workload, *namespace), name)


def write(recording: Mapping[str, Any], name: str) -> None:
    """Write a recording, one line for each object."""
    objects = ",\n".join(json.dumps(item, ensure_ascii=False) for item in recording["objects"])
    logs, now = (json.dumps(recording[key], ensure_ascii=False) for key in ("logs", "now"))
    FOLDER.mkdir(exist_ok=True)
    text = f'{{"now": {now},\n"logs": {logs},\n"objects": [\n{objects}\n]}}\n'
    (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
