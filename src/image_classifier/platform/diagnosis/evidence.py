"""What the cluster says about a workload, in the order of its chain: gathered by `walk`, judged by `diagnosis`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

CONDITION, CONTAINER, EVENT, RESULT, LOG = "condition", "container", "event", "result", "log"
"""Where a sign stands: in an object's conditions, a container's state, an event, a step's result, a step's log."""


class State(StrEnum):
    """How a resource of the chain is."""

    WELL = "well"
    RUNNING = "running"
    WAITING = "waiting"
    """For an earlier resource. Cartographer calls that TemplateStampFailure; it is none."""
    FAILED = "failed"


@dataclass(frozen=True)
class Sign:
    """Something that the cluster says and that is not as it should be."""

    where: str
    """CONDITION, CONTAINER, EVENT, RESULT or LOG."""
    of: str
    """The object that says it, such as "TaskRun flowers-train-8h5xd"."""
    reason: str
    """The word for machines: of a condition its reason, of a result the verdict, of a log nothing."""
    message: str


@dataclass(frozen=True)
class Resource:
    """A resource of the supply chain, and what speaks against it, the nearest to the cause first."""

    name: str
    state: State
    stamped: str
    """What the chain made for it, such as "TaskRun flowers-train-8h5xd"; "" for nothing."""
    since: datetime | None
    """Of the state."""
    signs: tuple[Sign, ...] = ()
    retried: bool = False
    """Whether a first try failed and another one runs."""


@dataclass(frozen=True)
class Share:
    """A revision that gets requests."""

    revision: str
    model: str
    """Address of the model, as models:/NAME/NUMBER."""
    percent: int
    since: datetime | None
    """When it was ready first."""


@dataclass(frozen=True)
class Serving:
    """What answers at the workload's address."""

    url: str
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class Evidence:
    """All that was found of a workload."""

    workload: str
    namespace: str
    params: Mapping[str, Any]
    seen: bool
    """Whether Cartographer has looked at the workload as it is now."""
    signs: tuple[Sign, ...]
    """Against the workload itself, before any resource."""
    resources: tuple[Resource, ...]
    serving: Serving | None
    """None where nothing ever served."""
    passed: str
    """Number of the newest version that passed the gate, or of the pinned one; "" before the first."""
    unread: tuple[str, ...] = ()
    """What this user was not allowed to read."""
