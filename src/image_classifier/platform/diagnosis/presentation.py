"""A diagnosis as lines for people and as JSON for programs."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from image_classifier.platform.diagnosis.diagnosis import Diagnosis, Outcome
from image_classifier.platform.diagnosis.evidence import Origin, Symptom
from image_classifier.platform.workload import PIN_PARAM
from image_classifier.text import clip

_MAX_SYMPTOMS, _MAX_LINES, _MAX_CHARACTERS = 4, 16, 600  # symptoms shown, lines of each, and characters of a line


def diagnosis_to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis for programs: {workload, outcome, cause, resources, serving …}."""
    evidence, cause, resource = diagnosis.evidence, diagnosis.cause, diagnosis.resource
    return {
        "workload": evidence.workload,
        "namespace": evidence.namespace,
        "outcome": diagnosis.outcome,
        "seen": evidence.is_current,
        "resource": resource.name if resource else None,
        "cause": cause
        and {
            "name": cause.name,
            "means": cause.meaning,
            "do": cause.advice,
            "signs": [
                {"where": each.origin, "of": each.reported_by, "reason": each.reason, "message": each.message}
                for each in diagnosis.symptoms
            ],
        },
        "resources": [
            {"name": each.name, "state": each.state, "object": each.stamped, "since": _timestamp(each.since)}
            for each in evidence.resources
        ],
        "serving": evidence.live
        and {
            "url": evidence.live.url,
            "shares": [{**asdict(share), "since": _timestamp(share.since)} for share in evidence.live.shares],
        },
        "passed": evidence.accepted_version or None,
        "pinned": diagnosis.pinned_version or None,
        "unread": list(evidence.denied),
    }


def describe_diagnosis(diagnosis: Diagnosis) -> Iterator[str]:
    """The diagnosis as lines for people."""
    evidence = diagnosis.evidence
    if diagnosis.outcome is Outcome.FAILING:
        yield from _describe_cause(diagnosis)
    elif diagnosis.outcome is Outcome.IN_PROGRESS:
        yield f"{evidence.workload}: {_progress(diagnosis)}; no problem found"
    else:
        yield f"{evidence.workload}: healthy"
    if evidence.resources:
        states = ", ".join(f"{each.name} {each.state.name.lower()}" for each in evidence.resources)
        yield f"  chain       {states}"
    yield from _describe_live(diagnosis)
    for line in evidence.denied:
        yield f"  not read    {line}"


def _describe_cause(diagnosis: Diagnosis) -> Iterator[str]:
    evidence, cause, resource = diagnosis.evidence, diagnosis.cause, diagnosis.resource
    if cause is None:
        return
    yield f"{evidence.workload}: {cause.meaning}"
    place = f", in {resource.name}" if resource else ""
    stamped = f" ({resource.stamped})" if resource and resource.stamped else ""
    yield f"  cause       {cause.name}{place}{stamped}"
    if resource and resource.is_retry:
        yield "              the first attempt failed for this reason; a retry is running"
    if not evidence.is_current:
        yield "              this is the state before the last change, which the supply chain has not processed yet"
    yield f"  what to do  {cause.advice}"
    yield "  evidence"
    yield from _describe_symptoms(diagnosis.symptoms)


def _progress(diagnosis: Diagnosis) -> str:
    resource = diagnosis.resource
    if resource is None:
        return "the supply chain has not processed the last change yet"
    since = f" since {_timestamp(resource.since)}" if resource.since else ""
    return f"{resource.name} is {resource.state.name.lower()}{since}"


def _describe_symptoms(symptoms: tuple[Symptom, ...]) -> Iterator[str]:
    """The first symptoms, without those that repeat another."""
    shown: set[str] = set()
    for symptom in symptoms:
        lines = [line for line in symptom.message.splitlines() if line.strip()][-_MAX_LINES:]
        is_repeated = any(symptom.message in other for other in shown)
        quotes_another = symptom.origin is Origin.CONDITION and any(other in symptom.message for other in shown)
        if not lines or is_repeated or quotes_another:
            continue
        if len(shown) == _MAX_SYMPTOMS:
            break
        shown.add(symptom.message)
        reason = f" {symptom.reason}" if symptom.reason else ""
        yield f"    {symptom.reported_by}, {symptom.origin}{reason}:"
        yield from (f"      {clip(line, _MAX_CHARACTERS)}" for line in lines)


def _describe_live(diagnosis: Diagnosis) -> Iterator[str]:
    evidence = diagnosis.evidence
    live, accepted, pinned = evidence.live, evidence.accepted_version, diagnosis.pinned_version
    if live is None or not live.shares:
        yield "  live        no version yet"
        return
    for share in live.shares:
        part = "" if share.percent == 100 else f", {share.percent} % of the requests"
        since = f" since {_timestamp(share.since)}" if share.since else ""
        yield f"  live        {share.model}{since}{part}, at {live.url}"
    if pinned:
        yield (
            f"  pinned      the param {PIN_PARAM} pins version {pinned}; to serve the newest accepted version: "
            f"tanzu apps workload apply {evidence.workload} -n {evidence.namespace} --param {PIN_PARAM}-"
        )
    versions = {share.model.rpartition("/")[2] for share in live.shares}
    if diagnosis.outcome is not Outcome.HEALTHY and accepted and versions != {accepted}:
        yield (
            f"  next        version {accepted}, which the gate accepted, goes live after its acceptance test and "
            "roll-out"
        )
    elif diagnosis.outcome is Outcome.FAILING:
        yield "              it stays live until the problem is fixed"


def _timestamp(time: datetime | None) -> str | None:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else None
