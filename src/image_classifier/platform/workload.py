"""A workload of the supply chain: its params, read and set, and the runs and labels of what it made."""

from collections.abc import Mapping
from typing import Any

from image_classifier.errors import ClusterError, ConflictError
from image_classifier.platform.cluster import TASK_RUN, WORKLOAD, Cluster, Object

PIN = "model_version"
"""The param that pins what serves."""
OF_SERVICE = "serving.kserve.io/inferenceservice"
"""Label of a server's pod: the inference service that it belongs to."""
_TRIES = 5


def require_workload(cluster: Cluster, name: str) -> Object:
    """The workload of that name; raises ClusterError, with the names of those that are there, for one that is not."""
    workload = cluster.get(WORKLOAD, name)
    if workload is None:
        there = ", ".join(item["metadata"]["name"] for item in cluster.list(WORKLOAD)) or "none"
        raise ClusterError(
            f"there is no workload {name} in namespace {cluster.namespace}, only: {there}; --namespace names another"
        )
    return workload


def params_of(workload: Object) -> dict[str, Any]:
    """A workload's own params."""
    return {param["name"]: param["value"] for param in workload.get("spec", {}).get("params") or []}


def model_name(workload: Object) -> str:
    """The name of its registered model."""
    return str(params_of(workload).get("name") or workload["metadata"]["name"])


def labels_of(workload: str, resource: str) -> dict[str, str]:
    """The labels that Cartographer gives to what a resource of a workload's chain stamps."""
    return {"carto.run/workload-name": workload, "carto.run/resource-name": resource}


def runs_of(cluster: Cluster, workload: str, resource: str) -> list[Object]:
    """The runs of a resource of the chain, the newest first."""
    runs = cluster.list(TASK_RUN, labels=labels_of(workload, resource))
    return sorted(runs, key=lambda run: str(run["metadata"]["creationTimestamp"]), reverse=True)


def set_params(cluster: Cluster, workload: Object, values: Mapping[str, Any]) -> None:
    """Set these params of a workload as it was read, or remove those that are None, and change no other.

    Raises ConflictError where somebody has changed the workload since.
    """
    name, generation = workload["metadata"]["name"], workload["metadata"]["generation"]
    seen: Object | None = workload
    for _ in range(_TRIES):
        if seen is None or seen["metadata"]["generation"] != generation:
            break
        others = [param for param in seen["spec"].get("params") or [] if param["name"] not in values]
        given = [{"name": key, "value": value} for key, value in values.items() if value is not None]
        # A merge patch has lists as a whole: the version guards them. Cartographer's writes to the status change it,
        # too, but not the generation.
        change = {
            "metadata": {"resourceVersion": seen["metadata"]["resourceVersion"]},
            "spec": {"params": [*others, *given]},
        }
        try:
            cluster.patch(WORKLOAD, name, change)
            return
        except ConflictError:
            seen = cluster.get(WORKLOAD, name)
    raise ConflictError(
        f"somebody else changed workload {name} at the same time; look at it, then repeat the command"
    )
