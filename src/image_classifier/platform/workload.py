"""Workloads of the supply chain: their params, and the labels and runs of their resources."""

from collections.abc import Iterable, Mapping
from typing import Any

from image_classifier.errors import ClusterError, ConflictError
from image_classifier.platform.cluster import TASK_RUN, WORKLOAD, Cluster, Object
from image_classifier.text import listed

PIN_PARAM = "model_version"  # the param that pins the model version that serves
INFERENCE_SERVICE_LABEL = "serving.kserve.io/inferenceservice"  # on a server's pod: its inference service
_PATCH_ATTEMPTS = 5


def require_workload(cluster: Cluster, name: str) -> Object:
    """The workload of that name; raises ClusterError, with the names of the existing ones, if there is none."""
    workload = cluster.get(WORKLOAD, name)
    if workload is None:
        others = [item["metadata"]["name"] for item in cluster.list(WORKLOAD)]
        existing = f"there are: {listed(others)}" if others else "it has none; --namespace chooses another"
        raise ClusterError(f"there is no workload {name} in namespace {cluster.namespace}; {existing}")
    return workload


def params_of(workload: Object) -> dict[str, Any]:
    """The params that a workload sets."""
    return {param["name"]: param["value"] for param in workload.get("spec", {}).get("params") or []}


def model_name(workload: Object) -> str:
    """The name of a workload's registered model."""
    return str(params_of(workload).get("name") or workload["metadata"]["name"])


def resource_labels(workload: str, resource: str) -> dict[str, str]:
    """The labels that Cartographer sets on the objects that it stamps for a resource of a workload."""
    return {"carto.run/workload-name": workload, "carto.run/resource-name": resource}


def runs_of(cluster: Cluster, workload: str, resource: str) -> list[Object]:
    """The TaskRuns of a resource of the supply chain, newest first."""
    return newest_first(cluster.list(TASK_RUN, labels=resource_labels(workload, resource)))


def newest_first(objects: Iterable[Object]) -> list[Object]:
    return sorted(objects, key=lambda item: str(item["metadata"]["creationTimestamp"]), reverse=True)


def set_params(cluster: Cluster, workload: Object, values: Mapping[str, Any]) -> None:
    """Set params of a workload, and remove those whose value is None; the others stay.

    Raises ConflictError if the spec has changed since `workload` was read.
    """
    name, generation = workload["metadata"]["name"], workload["metadata"]["generation"]
    current: Object | None = workload
    for _ in range(_PATCH_ATTEMPTS):
        if current is None or current["metadata"]["generation"] != generation:
            break
        kept = [param for param in current["spec"].get("params") or [] if param["name"] not in values]
        added = [{"name": key, "value": value} for key, value in values.items() if value is not None]
        # A merge patch replaces a list as a whole, so the patch names the version that it applies to. Cartographer's
        # writes to the status change that version as well, but not the generation: then a retry is safe.
        applies_to = {"resourceVersion": current["metadata"]["resourceVersion"]}
        change = {"metadata": applies_to, "spec": {"params": [*kept, *added]}}
        try:
            cluster.patch(WORKLOAD, name, change)
            return
        except ConflictError:
            current = cluster.get(WORKLOAD, name)
    raise ConflictError(
        f"workload {name} was changed by someone else at the same time; check it, then repeat the command"
    )
