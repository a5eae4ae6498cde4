"""From the evidence to an answer: the first real cause in the order of the chain, and what serves meanwhile."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from image_classifier.platform.diagnosis.causes import Found, recognise
from image_classifier.platform.diagnosis.evidence import CONDITION, LOG, Evidence, Resource, Sign, State
from image_classifier.platform.workload import PIN
from image_classifier.text import clip

UNKNOWN = "unknown"
"""The name of the cause that no entry of the list tells."""
_SHOWN_SIGNS, _SHOWN_LINES, _SHOWN_CHARACTERS = 4, 16, 600


class Health(StrEnum):
    """The answer in a word."""

    WELL = "well"
    """Everything is done, and the newest accepted version, or the pinned one, serves."""
    UNDER_WAY = "under way"
    """Something still runs, and nothing speaks against it."""
    TROUBLE = "trouble"


@dataclass(frozen=True)
class Diagnosis:
    """Why a workload is as it is."""

    outcome: Health
    evidence: Evidence
    cause: Found | None
    """Of TROUBLE."""
    resource: Resource | None
    """Where the trouble is, or what runs; None: the workload as a whole."""

    @property
    def signs(self) -> tuple[Sign, ...]:
        """What shows the cause: the sign that told it, then what else speaks against the same resource."""
        if self.cause is None:
            return ()
        others = self.resource.signs if self.resource else self.evidence.signs
        return (self.cause.sign, *(sign for sign in others if sign != self.cause.sign))

    @property
    def pinned(self) -> str:
        """The version that the workload pins, or ""."""
        return str(self.evidence.params.get(PIN, ""))


def diagnose(evidence: Evidence) -> Diagnosis:
    """The first cause in the order of the chain.

    A resource that runs is in trouble only where a cause is known: much looks odd for a moment. One that failed is,
    in any case. What waits for an earlier resource is never looked at, and what mends itself is told last.
    """

    def found(signs: tuple[Sign, ...], resource: str) -> Found | None:
        return recognise(signs, workload=evidence.workload, namespace=evidence.namespace, resource=resource)

    if evidence.signs:
        whole = found(evidence.signs, "") or _unknown(evidence.signs, "the workload")
        return Diagnosis(Health.TROUBLE, evidence, whole, None)
    passing: Diagnosis | None = None
    for resource in evidence.resources:
        if resource.state in (State.WELL, State.WAITING):
            continue
        cause = found(resource.signs, resource.name)
        if cause is None and resource.state is State.FAILED:
            cause = _unknown(resource.signs, resource.name)
        if cause is None:
            continue
        trouble = Diagnosis(Health.TROUBLE, evidence, cause, resource)
        if not cause.passing:
            return trouble
        passing = passing or trouble
    if passing:
        return passing
    unfinished = [resource for resource in evidence.resources if resource.state is not State.WELL]
    if unfinished or not evidence.seen or not evidence.resources:
        return Diagnosis(Health.UNDER_WAY, evidence, None, unfinished[0] if unfinished else None)
    return Diagnosis(Health.WELL, evidence, None, None)


def _unknown(signs: tuple[Sign, ...], where: str) -> Found:
    """What can be said where nothing is known: the rawest of the signs, in its own words."""
    silence = Sign(CONDITION, where, "", "the cluster says nothing of it")
    rawest = next(sign for sign in (*signs, silence) if sign.where != LOG and sign.message)
    return Found(
        UNKNOWN,
        f"{where} is in trouble that this command does not know: {rawest.reason} {rawest.message}".rstrip(),
        "what the cluster says stands below; when you found it, add the cause to platform/causes.py",
        rawest,
    )


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis for machines: {workload, outcome, cause, resources, serving …}."""
    evidence, cause, resource = diagnosis.evidence, diagnosis.cause, diagnosis.resource
    return {
        "workload": evidence.workload,
        "namespace": evidence.namespace,
        "outcome": str(diagnosis.outcome),
        "seen": evidence.seen,
        "resource": resource.name if resource else None,
        "cause": cause
        and {
            "name": cause.name,
            "means": cause.means,
            "do": cause.do,
            "signs": [asdict(sign) for sign in diagnosis.signs],
        },
        "resources": [
            {"name": each.name, "state": str(each.state), "object": each.stamped, "since": _stamp(each.since)}
            for each in evidence.resources
        ],
        "serving": evidence.serving
        and {
            "url": evidence.serving.url,
            "shares": [{**asdict(share), "since": _stamp(share.since)} for share in evidence.serving.shares],
        },
        "passed": evidence.passed or None,
        "pinned": diagnosis.pinned or None,
        "unread": list(evidence.unread),
    }


def in_words(diagnosis: Diagnosis) -> Iterator[str]:
    """The diagnosis as lines for people."""
    evidence, cause, resource = diagnosis.evidence, diagnosis.cause, diagnosis.resource
    if cause is not None:
        where = f"{resource.name} ({resource.stamped})" if resource and resource.stamped else ""
        yield f"{evidence.workload}: {cause.means}"
        yield f"  cause       {cause.name}" + (f", in {where or resource.name}" if resource else "")
        if resource and resource.retried:
            yield "              a first try failed so; another one runs"
        if not evidence.seen:
            yield "              so it was before the last change, which the chain has not looked at yet"
        yield f"  what to do  {cause.do}"
        yield "  shown by"
        yield from _shown(diagnosis.signs)
    elif diagnosis.outcome is Health.UNDER_WAY:
        yield f"{evidence.workload}: {_under_way(diagnosis)}; nothing speaks against it"
    else:
        yield f"{evidence.workload}: all is well"
    if evidence.resources:
        yield "  chain       " + ", ".join(f"{each.name} {each.state}" for each in evidence.resources)
    yield from _serving(diagnosis)
    for line in evidence.unread:
        yield f"  not read    {line}"


def _under_way(diagnosis: Diagnosis) -> str:
    resource = diagnosis.resource
    if resource is None:
        return "the chain has not looked at its last change yet"
    since = f" since {_stamp(resource.since)}" if resource.since else ""
    return f"{resource.name} is {resource.state}{since}"


def _shown(signs: tuple[Sign, ...]) -> Iterator[str]:
    told: set[str] = set()
    for sign in signs:
        lines = [line for line in sign.message.splitlines() if line.strip()][-_SHOWN_LINES:]
        repeats = any(sign.message in other for other in told)
        if not lines or repeats or (sign.where == CONDITION and any(other in sign.message for other in told)):
            continue
        if len(told) == _SHOWN_SIGNS:
            break
        told.add(sign.message)
        reason = f" {sign.reason}" if sign.reason else ""
        yield f"    {sign.of}, {sign.where}{reason}:"
        yield from (f"      {clip(line, _SHOWN_CHARACTERS)}" for line in lines)


def _serving(diagnosis: Diagnosis) -> Iterator[str]:
    """What answers, and why it is still that."""
    serving = diagnosis.evidence.serving
    if serving is None or not serving.shares:
        yield "  serves      nothing yet"
        return
    for share in serving.shares:
        part = "" if share.percent == 100 else f", {share.percent} % of the requests"
        since = f" since {_stamp(share.since)}" if share.since else ""
        yield f"  serves      {share.model}{since}{part}, at {serving.url}"
    if diagnosis.pinned:
        yield (
            f"  pinned      the param {PIN} asks for version {diagnosis.pinned}; without it the newest accepted one "
            f"serves: tanzu apps workload apply {diagnosis.evidence.workload} "
            f"-n {diagnosis.evidence.namespace} --param {PIN}-"
        )
    passed, served = diagnosis.evidence.passed, {share.model.rpartition("/")[2] for share in serving.shares}
    if diagnosis.outcome is not Health.WELL and passed and served != {passed}:
        yield f"  next        version {passed} passed the gate; it serves once it was tried, and requests move to it"
    elif diagnosis.outcome is Health.TROUBLE:
        yield "              and goes on serving until the trouble is mended"


def _stamp(time: datetime | None) -> str | None:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else None
