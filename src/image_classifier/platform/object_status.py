"""Fields of Kubernetes objects: conditions, results, times, outputs."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from image_classifier.platform.cluster import Kind, Object


def conditions_of(item: Mapping[str, Any]) -> list[Object]:
    """The conditions of an object, or of an entry in the resources of a workload's status."""
    status = item.get("status", {}) if "kind" in item else item
    conditions: list[Object] = status.get("conditions", [])
    return conditions


def condition_status(item: Mapping[str, Any], condition_type: str) -> str:
    """ "True", "False" or "Unknown"; "" if there is no such condition."""
    return next((each["status"] for each in conditions_of(item) if each["type"] == condition_type), "")


def is_true(item: Mapping[str, Any], condition_type: str) -> bool:
    return condition_status(item, condition_type) == "True"


def transition_time(item: Mapping[str, Any], condition_type: str) -> datetime | None:
    """When a condition last changed its status."""
    for condition in conditions_of(item):
        if condition["type"] == condition_type and condition.get("lastTransitionTime"):
            return parse_time(condition["lastTransitionTime"])
    return None


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def object_name(item: Mapping[str, Any]) -> str:
    """Kind and name, such as "Pod photos-1"."""
    return f"{item['kind']} {item['metadata']['name']}"


def kind_of(reference: Mapping[str, Any]) -> Kind:
    """The kind that a reference in a workload's status names."""
    plural, _, group = reference["resource"].partition(".")
    return Kind(reference["kind"], plural, reference["apiVersion"].rpartition("/")[2], group)


def results_of(status: Mapping[str, Any]) -> dict[str, str]:
    """The results of a TaskRun, by name."""
    return {result["name"]: str(result["value"]) for result in status.get("results") or []}


def output_of(resources: Iterable[Object], resource: str, name: str) -> str:
    """An output of a resource in a workload's status, which Cartographer shows as YAML; "" if there is none."""
    for item in resources:
        for output in item.get("outputs", []) if item["name"] == resource else []:
            if output["name"] == name:
                return str(output["preview"]).strip().strip("'\"")
    return ""
