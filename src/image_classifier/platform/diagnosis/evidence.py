"""Data model of a diagnosis: what the cluster reports about a workload, in the order of its supply chain."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from image_classifier.platform.object_status import conditions_of, object_name, results_of
from image_classifier.registry import NOT_ACCEPTED

FAILED = "failed"  # verdict in the results of a step that ended with an error


class Origin(StrEnum):
    """Where a symptom was found."""

    CONDITION = "condition"
    CONTAINER = "container"  # a container's state
    EVENT = "event"
    RESULT = "result"  # the results of a step
    LOG = "log"


@dataclass(frozen=True)
class Symptom:
    """A report of the cluster that something is wrong."""

    origin: Origin
    reported_by: str  # the object, such as "TaskRun flowers-train-8h5xd"
    reason: str  # one word: a condition's reason, or the verdict of a step; "" for a log
    message: str


class ResourceState(StrEnum):
    """State of a resource of the supply chain. The values are those of the JSON output."""

    READY = "well"
    RUNNING = "running"
    WAITING = "waiting"  # for an earlier resource, which Cartographer reports as TemplateStampFailure
    FAILED = "failed"


@dataclass(frozen=True)
class Resource:
    """A resource of the supply chain."""

    name: str
    state: ResourceState
    stamped: str  # the object that the chain created for it, such as "TaskRun flowers-train-8h5xd"; "" for none
    since: datetime | None  # when it entered this state
    symptoms: tuple[Symptom, ...] = ()  # the closest to the cause first
    is_retry: bool = False  # whether the first attempt failed and a retry is running


@dataclass(frozen=True)
class TrafficShare:
    """A revision that gets requests."""

    revision: str
    model: str  # URI of the model version, models:/NAME/NUMBER
    percent: int
    since: datetime | None  # when it became ready


@dataclass(frozen=True)
class LiveService:
    """The workload's inference service that gets requests."""

    url: str
    shares: tuple[TrafficShare, ...]


@dataclass(frozen=True)
class Evidence:
    """Everything that was read about a workload."""

    workload: str
    namespace: str
    params: Mapping[str, Any]
    is_current: bool  # whether Cartographer has processed the last change of the workload
    symptoms: tuple[Symptom, ...]  # of the workload itself, if it has no resources yet
    resources: tuple[Resource, ...]
    live: LiveService | None  # None if nothing was ever live
    accepted_version: str  # number of the newest version that the gate accepted, or of the pinned one; "" if none
    denied: tuple[str, ...] = ()  # requests that the cluster denied this user


def condition_symptoms(
    item: Mapping[str, Any], *, reported_by: str = "", types: Iterable[str] = ()
) -> Iterator[Symptom]:
    """The conditions, of these or all types, that are not true and give a reason; each message once."""
    types = tuple(types)
    messages = set()
    for condition in conditions_of(item):
        message = condition.get("message", "")
        if condition.get("status") == "True" or (types and condition["type"] not in types):
            continue
        if (message or condition.get("reason")) and message not in messages:
            messages.add(message)
            reporter = reported_by or object_name(item)
            yield Symptom(Origin.CONDITION, reporter, condition.get("reason", ""), message)


def result_symptoms(reported_by: str, status: Mapping[str, Any]) -> Iterator[Symptom]:
    """The verdict of a TaskRun whose step failed, or that refused or held a version."""
    results = results_of(status)
    verdict = results.get("verdict", "")
    if verdict in (FAILED, *NOT_ACCEPTED):
        yield Symptom(Origin.RESULT, reported_by, verdict, results.get("reason", ""))
