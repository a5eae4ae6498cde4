"""A workload of the supply chain: its params, read and set."""

from collections.abc import Mapping
from typing import Any

from image_classifier.errors import ClusterError
from image_classifier.platform.cluster import WORKLOAD, Cluster, Object


def require_workload(cluster: Cluster, name: str) -> Object:
    """The workload; raises ClusterError where there is none."""
    workload = cluster.get(WORKLOAD, name)
    if workload is None:
        raise ClusterError(
            f"there is no workload {name} in namespace {cluster.namespace}; `tanzu apps workload list` shows those "
            "there are"
        )
    return workload


def params_of(workload: Object) -> dict[str, Any]:
    """A workload's own params."""
    return {param["name"]: param["value"] for param in workload.get("spec", {}).get("params") or []}


def model_name(workload: Object) -> str:
    """The name of its registered model."""
    return str(params_of(workload).get("name") or workload["metadata"]["name"])


def set_params(cluster: Cluster, workload: Object, values: Mapping[str, Any]) -> None:
    """Set params of a workload as it was read; raises ClusterError where somebody has changed it since."""
    others = [param for param in workload["spec"].get("params") or [] if param["name"] not in values]
    params = [*others, *({"name": name, "value": value} for name, value in values.items())]
    metadata = workload["metadata"]
    change = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "spec": {"params": params}}
    cluster.patch(WORKLOAD, metadata["name"], change)
