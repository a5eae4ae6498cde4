"""Judge the evidence about a workload: its outcome, and the first real cause in the order of the supply chain."""

from dataclasses import dataclass
from enum import StrEnum

from image_classifier.platform.diagnosis.causes import RecognizedCause, recognize_cause
from image_classifier.platform.diagnosis.evidence import Evidence, Origin, Resource, ResourceState, Symptom
from image_classifier.platform.workload import PIN_PARAM

UNKNOWN = "unknown"  # name of the cause if no entry of the list matches


class Outcome(StrEnum):
    """State of a workload. The values are those of the JSON output."""

    HEALTHY = "well"  # everything is done, and the newest accepted version, or the pinned one, is live
    IN_PROGRESS = "under way"  # a resource is running, and there is no problem
    FAILING = "trouble"


@dataclass(frozen=True)
class Diagnosis:
    """The state of a workload, and the reason for it."""

    outcome: Outcome
    evidence: Evidence
    cause: RecognizedCause | None = None  # None unless FAILING
    resource: Resource | None = None  # the resource that fails or runs; None: the workload as a whole

    @property
    def healthy(self) -> bool:
        return self.outcome is not Outcome.FAILING

    @property
    def symptoms(self) -> tuple[Symptom, ...]:
        """The symptom of the cause, then the other symptoms of the same resource."""
        if self.cause is None:
            return ()
        others = self.resource.symptoms if self.resource else self.evidence.symptoms
        return (self.cause.symptom, *(symptom for symptom in others if symptom != self.cause.symptom))

    @property
    def pinned_version(self) -> str:
        """The model version that the workload pins, or ""."""
        return str(self.evidence.params.get(PIN_PARAM, ""))


def diagnose(evidence: Evidence) -> Diagnosis:
    """Find the first cause in the order of the supply chain.

    A running resource has a problem only if its cause is known, as many symptoms are transient; a failed one always
    has. Resources that wait for an earlier one are skipped. A temporary cause is reported only if there is no other.
    """
    if evidence.symptoms:
        cause = _recognize(evidence, evidence.symptoms, "") or _unknown(evidence.symptoms, "the workload")
        return Diagnosis(Outcome.FAILING, evidence, cause)
    problems = [(each, found) for each in evidence.resources if (found := _cause_of(evidence, each))]
    if problems:
        resource, cause = min(problems, key=lambda problem: problem[1].is_temporary)
        return Diagnosis(Outcome.FAILING, evidence, cause, resource)
    unfinished = [each for each in evidence.resources if each.state is not ResourceState.READY]
    if unfinished or not evidence.is_current or not evidence.resources:
        return Diagnosis(Outcome.IN_PROGRESS, evidence, resource=unfinished[0] if unfinished else None)
    return Diagnosis(Outcome.HEALTHY, evidence)


def _cause_of(evidence: Evidence, resource: Resource) -> RecognizedCause | None:
    if resource.state in (ResourceState.READY, ResourceState.WAITING):
        return None
    cause = _recognize(evidence, resource.symptoms, resource.name)
    if cause is None and resource.state is ResourceState.FAILED:
        return _unknown(resource.symptoms, resource.name)
    return cause


def _recognize(evidence: Evidence, symptoms: tuple[Symptom, ...], resource: str) -> RecognizedCause | None:
    return recognize_cause(symptoms, workload=evidence.workload, namespace=evidence.namespace, resource=resource)


def _unknown(symptoms: tuple[Symptom, ...], where: str) -> RecognizedCause:
    """A cause for symptoms that no entry of the list matches: quotes the first one with a message."""
    nothing = Symptom(Origin.CONDITION, where, "", "the cluster reports no reason")
    first = next(each for each in (*symptoms, nothing) if each.origin is not Origin.LOG and each.message)
    return RecognizedCause(
        UNKNOWN,
        f"{where} has a problem that is not in the list of causes: {first.reason} {first.message}".rstrip(),
        "read the evidence below; once you know the cause, add it to platform/diagnosis/causes.py",
        first,
    )
