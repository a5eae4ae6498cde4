"""What the servers of a version have seen, all together: added up from what each of them has counted so far.

A server counts from its start and names its counts; the record keeps what each was last read to have, so that only
what is new is added, whoever was restarted or taken away meanwhile.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from image_classifier.monitoring.drift_detection import (
    DriftJudgement,
    DriftReference,
    DriftVerdict,
    judge_drift,
    too_few_images,
)

_MOST_SERVERS = 500
"""So many, the last that were read, are remembered: one that is gone never comes back under its name."""
_MOST_WINDOWS = 100

ByFeature = Mapping[str, Sequence[int]]
"""Of each feature the counts of its bins."""


@dataclass(frozen=True)
class ServerCounts:
    """What one server has counted since its start."""

    instance: str
    images: int
    features: ByFeature


@dataclass(frozen=True)
class JudgedWindow:
    """A full window of images of all servers, and what it told."""

    ended: datetime
    images: int
    judgement: Mapping[str, Any]
    """As DriftJudgement.to_dict gives it."""

    @property
    def verdict(self) -> DriftVerdict:
        return DriftVerdict(self.judgement["verdict"])

    @property
    def reason(self) -> str:
        return str(self.judgement["reason"])


@dataclass(frozen=True)
class DriftRecord:
    """The record of a version."""

    images: int = 0
    """Of all servers since the version was first served."""
    filling: ServerCounts = field(default_factory=lambda: ServerCounts("", 0, {}))
    """What the window that is not full yet holds."""
    servers: Mapping[str, ServerCounts] = field(default_factory=dict)
    """By instance, as they were read last."""
    windows: tuple[JudgedWindow, ...] = ()
    """The newest last."""

    def with_counts(
        self,
        reports: Sequence[ServerCounts],
        reference: DriftReference,
        *,
        window: int,
        false_alarms: float,
        now: datetime,
    ) -> "DriftRecord":
        """The record with what is new; a window that is full by now is judged.

        Raises ValueError for counts that are not of the reference's features.
        """
        counts = reference.joined(self.filling.features) if self.filling.features else reference.no_counts()
        images, servers = 0, dict(self.servers)
        for report in reports:
            before = servers.pop(report.instance, None)
            added = reference.joined(report.features)
            if before is not None:
                added = added - reference.joined(before.features)
            if np.any(added < 0):
                raise ValueError(f"server {report.instance} has counted less than it had before")
            counts = counts + added
            images += report.images - (before.images if before else 0)
            servers[report.instance] = report
        filled = self.filling.images + images
        kept = dict(list(servers.items())[-_MOST_SERVERS:])
        if filled < window:
            filling = ServerCounts("", filled, reference.by_feature(counts))
            return replace(self, images=self.images + images, filling=filling, servers=kept)
        judged = JudgedWindow(now, filled, judge_drift(reference, counts, false_alarms).to_dict())
        return DriftRecord(
            images=self.images + images, servers=kept, windows=(*self.windows, judged)[-_MOST_WINDOWS:]
        )

    def judgement(self, window: int) -> DriftJudgement:
        """The verdict and its reason: of the newest full window, where there is one."""
        if not self.windows:
            return too_few_images(self.filling.images, window)
        return DriftJudgement(self.windows[-1].verdict, self.windows[-1].reason)

    def to_json(self) -> str:
        return json.dumps(
            {
                "images": self.images,
                "filling": _stored(self.filling),
                "servers": {name: _stored(server) for name, server in self.servers.items()},
                "windows": [
                    {"ended": each.ended.isoformat(), "images": each.images, "judgement": each.judgement}
                    for each in self.windows
                ],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, content: bytes) -> "DriftRecord":
        """Raises ValueError, KeyError or TypeError for what is no record."""
        stored = json.loads(content)
        return cls(
            images=int(stored["images"]),
            filling=_read("", stored["filling"]),
            servers={name: _read(name, server) for name, server in stored["servers"].items()},
            windows=tuple(
                JudgedWindow(datetime.fromisoformat(each["ended"]), int(each["images"]), each["judgement"])
                for each in stored["windows"]
            ),
        )


def _stored(counts: ServerCounts) -> dict[str, Any]:
    return {"images": counts.images, "features": {name: [*bins] for name, bins in counts.features.items()}}


def _read(instance: str, stored: Mapping[str, Any]) -> ServerCounts:
    return ServerCounts(instance, int(stored["images"]), stored["features"])
