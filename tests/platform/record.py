"""Record what `why` reads of a workload, for tests/platform/test_causes.py.

    python -m tests.platform.record WORKLOAD NAME [NAMESPACE]

writes tests/platform/recorded/NAME.json: the objects without what nothing reads, and with the names of the
cluster that they come from replaced.
"""

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from image_classifier.platform.cluster import Cluster, Kind, Object
from image_classifier.platform.diagnosis.walk import collect
from image_classifier.text import clip
from tests.platform.recorded_cluster import NAMESPACE

FOLDER = Path(__file__).with_name("recorded")
WORKLOAD = "flowers"
"""The name that every recorded workload gets."""
_METADATA = ("name", "labels", "creationTimestamp", "deletionTimestamp", "generation")
_LABELS = ("carto.run/workload-name", "carto.run/resource-name", "serving.knative.dev/revision")
_STATUS = {
    "Workload": ("observedGeneration", "conditions", "resources"),
    "TaskRun": ("conditions", "completionTime", "podName", "results", "retriesStatus", "steps"),
    "Pod": ("conditions", "phase", "reason", "message", "initContainerStatuses", "containerStatuses"),
    "InferenceService": ("conditions", "components", "modelStatus", "url"),
}
_UNREAD = {
    *(
        "templateRef",
        "containerID",
        "image",
        "imageID",
        "volumeMounts",
        "resources",
        "allocatedResources",
        "user",
    ),
    *("provenance", "taskSpec", "restUrl", "grpcUrl", "severity", "lastProbeTime", "observedGeneration"),
    *("digest", "spec"),
}
"""Of status; but a workload's resources and their images are read."""


_LONGEST_OF_WAITING = 60
"""Characters of why a resource that waits cannot be stamped."""


class Recorder(Cluster):
    """Keeps what was read."""

    objects: dict[tuple[str, str], Object]
    logs: dict[str, str]

    def get(self, kind: Kind, name: str) -> Object | None:
        found = super().get(kind, name)
        self._keep([found] if found else [])
        return found

    def list(self, kind: Kind, **chosen: Any) -> list[Object]:
        found = super().list(kind, **chosen)
        self._keep(found)
        return found

    def log(self, pod: str, container: str, *, lines: int) -> str:
        printed = super().log(pod, container, lines=lines)
        if printed:
            self.logs[f"{pod}/{container}"] = printed
        return printed

    def _keep(self, found: "list[Object]") -> None:
        for item in found:
            self.objects[item["kind"], item["metadata"]["name"]] = item


def record(workload: str, namespace: str = "") -> dict[str, Any]:
    """What the walk reads of a workload, as a recording."""
    cluster = Recorder.connect(namespace)
    assert isinstance(cluster, Recorder)
    cluster.objects, cluster.logs = {}, {}
    now = datetime.now(UTC)
    collect(cluster, workload, now)
    content = {
        "now": now.isoformat(timespec="seconds"),
        "objects": [_pruned(item) for item in cluster.objects.values() if item.get("type") != "Normal"],
        "logs": cluster.logs,
    }
    return dict(json.loads(_renamed(json.dumps(content), workload, cluster.namespace)))


def _pruned(item: Object) -> Object:
    kind, metadata = item["kind"], item["metadata"]
    kept: Object = {
        "kind": kind,
        "metadata": {key: metadata[key] for key in _METADATA if key in metadata},
    }
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
    kept["status"] = {key: _without_unread(status[key]) for key in wanted if key in status}
    return kept


def _environments(containers: list[Object]) -> list[Object]:
    return [
        {"env": [variable for variable in container.get("env", []) if variable["name"] == "STORAGE_URI"]}
        for container in containers
    ]


def _without_unread(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_unread(inner) for key, inner in value.items() if key not in _UNREAD}
        if "struct has no" in kept.get("message", ""):
            kept["message"] = clip(kept["message"], _LONGEST_OF_WAITING)
        if kept.get("type") != "Ready":
            kept.pop("lastTransitionTime", None)
        return kept
    if isinstance(value, list):
        return [_without_unread(inner) for inner in value]
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
    """Write a recording, an object a line."""
    objects = ",\n".join(json.dumps(item, ensure_ascii=False) for item in recording["objects"])
    logs, now = (json.dumps(recording[key], ensure_ascii=False) for key in ("logs", "now"))
    FOLDER.mkdir(exist_ok=True)
    text = f'{{"now": {now},\n"logs": {logs},\n"objects": [\n{objects}\n]}}\n'
    (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
