"""What the gate decided about a version: one type, used wherever a verdict is stored or compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Decision(StrEnum):
    """The gate's decision about a version, and the verdict of a step in its results."""

    ACCEPTED = "accepted"
    HELD = "held"
    """Not refused, but there is not enough evidence to replace the champion."""
    REFUSED = "refused"
    NOT_JUDGED = "not judged"

    @classmethod
    def from_tag(cls, value: str | None) -> "Decision":
        """From the tag of a version, which has none before it is judged."""
        return cls(value) if value else cls.NOT_JUDGED


NOT_ACCEPTED = (Decision.HELD, Decision.REFUSED)
"""Decisions after which the champion stays."""


@dataclass(frozen=True)
class RecordedVerdict:
    """The verdict of a version as the registry stores it."""

    decision: Decision
    reason: str
    findings: tuple[Mapping[str, Any], ...] = ()
    """The result of each rule."""

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": str(self.decision), "reason": self.reason, "findings": list(self.findings)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "RecordedVerdict":
        return cls(Decision(content["verdict"]), content["reason"], tuple(content["findings"]))
