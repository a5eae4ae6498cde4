"""The command `why`: why a workload, or the newest version in the registry, is in its state."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from image_classifier.settings import Settings
from image_classifier.steps.model_access import open_registry
from image_classifier.text import Report


@dataclass(frozen=True)
class Explanation:
    """What `why` found."""

    healthy: bool
    lines: tuple[str, ...]  # for people
    content: Mapping[str, Any]  # for programs


def why(settings: Settings, workload: str | None, report: Report) -> Explanation:
    """Diagnose a workload in its cluster; without one, the status of the newest version in the registry.

    Raises ClusterError if there is no cluster, it cannot be reached, or it has no such workload.
    """
    if workload is None:
        return _explain_registry(settings, report)
    from image_classifier.platform import Cluster, collect_evidence, describe_diagnosis, diagnose, diagnosis_to_json

    evidence = collect_evidence(Cluster.connect(settings.namespace), workload, datetime.now(UTC))
    diagnosis = diagnose(evidence)
    return Explanation(diagnosis.healthy, tuple(describe_diagnosis(diagnosis)), diagnosis_to_json(diagnosis))


def _explain_registry(settings: Settings, report: Report) -> Explanation:
    from image_classifier.registry import Stage, describe_status, status_of, status_to_json

    status = status_of(open_registry(settings, report))
    return Explanation(status.stage is Stage.SERVES, tuple(describe_status(status)), status_to_json(status))
