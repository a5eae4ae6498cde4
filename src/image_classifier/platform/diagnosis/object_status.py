"""What an object of the cluster says of itself: its conditions, results, times and names."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from image_classifier.platform.cluster import Kind, Object
from image_classifier.platform.diagnosis.evidence import CONDITION, RESULT, Sign, State


def silent(listed: Iterable[Object]) -> set[str]:
    """The resources of a workload's status that pass nothing on now; what they passed on before may still be listed."""
    return {item["name"] for item in listed if not item.get("outputs") or _submitted(item) == "False"}


def state_of(item: Object, silent_ones: set[str]) -> State:
    """How a resource is, by the conditions that Cartographer keeps of it, and by what its inputs lack."""
    if is_true(item, "Ready"):
        return State.WELL
    submitted, healthy = _submitted(item), _condition(item, "Healthy")
    inputs = {each["name"] for each in item.get("inputs", [])}
    if submitted != "True" and healthy != "False" and inputs & silent_ones:
        return State.WAITING
    return State.FAILED if "False" in (submitted, healthy) else State.RUNNING


def _submitted(item: Object) -> str:
    return _condition(item, "ResourceSubmitted")


def _condition(item: Object, condition_type: str) -> str:
    """True, False or Unknown; "" where there is no such condition."""
    return next((each["status"] for each in _conditions(item) if each["type"] == condition_type), "")


def output_of(listed: Iterable[Object], resource: str, name: str) -> str:
    """What a resource of the workload's status passes on, which Cartographer shows as YAML."""
    for item in listed:
        for output in item.get("outputs", []) if item["name"] == resource else []:
            if output["name"] == name:
                return str(output["preview"]).strip().strip("'\"")
    return ""


def conditions_of(item: Mapping[str, Any], *, of_what: str = "", only: Iterable[str] = ()) -> Iterator[Sign]:
    """The conditions that are not true and say something, each message once."""
    wanted = tuple(only)
    told = set()
    for condition in _conditions(item):
        message = condition.get("message", "")
        if condition.get("status") == "True" or (wanted and condition["type"] not in wanted):
            continue
        if (message or condition.get("reason")) and message not in told:
            told.add(message)
            yield Sign(CONDITION, of_what or called(item), condition.get("reason", ""), message)


def results_of(status: Mapping[str, Any]) -> dict[str, str]:
    """What a run left, by name."""
    return {result["name"]: str(result["value"]) for result in status.get("results") or []}


def verdict_of(status: Mapping[str, Any]) -> tuple[str, str]:
    """The verdict that a step left, and its reason."""
    results = results_of(status)
    return results.get("verdict", ""), results.get("reason", "")


def bad_result_of(name: str, status: Mapping[str, Any]) -> Iterator[Sign]:
    """The verdict of a run and its reason, where it is a bad one."""
    verdict, reason = verdict_of(status)
    if verdict in ("failed", "refused"):
        yield Sign(RESULT, name, verdict, reason)


def is_over(status: Mapping[str, Any]) -> bool:
    return "completionTime" in status


def is_true(item: Mapping[str, Any], condition_type: str) -> bool:
    return any(
        condition["type"] == condition_type and condition["status"] == "True"
        for condition in _conditions(item)
    )


def since(item: Mapping[str, Any], condition_type: str) -> datetime | None:
    """When a condition became what it is."""
    for condition in _conditions(item):
        if condition["type"] == condition_type and condition.get("lastTransitionTime"):
            return time_of(condition["lastTransitionTime"])
    return None


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def called(item: Mapping[str, Any]) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


def kind_of(reference: Mapping[str, Any]) -> Kind:
    plural, _, group = reference["resource"].partition(".")
    return Kind(reference["kind"], plural, reference["apiVersion"].rpartition("/")[2], group)


def model_of(containers: Iterable[Mapping[str, Any]]) -> str:
    """The address of the model that a server is given."""
    for container in containers:
        for variable in container.get("env", []):
            if variable["name"] == "STORAGE_URI":
                return str(variable["value"]).partition("?")[0]
    return ""


def _conditions(item: Mapping[str, Any]) -> list[Object]:
    """Of an object, in its status; of a resource in a workload's status, in itself."""
    conditions: list[Object] = (item.get("status", {}) if "kind" in item else item).get("conditions", [])
    return conditions
