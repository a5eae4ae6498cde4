"""The drift record of a model version: the counts of all its servers, summed up over restarts and replacements.

A server counts from its start, under an instance name. Only the difference from its last counts is added.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from image_classifier.monitoring.drift_detection import DriftResult, DriftVerdict, detect_drift, too_few_images
from image_classifier.monitoring.drift_reference import DriftReference, EmbeddingReference, ProjectedEmbeddings
from image_classifier.package import MAX_EMBEDDINGS

_MAX_SERVERS = 500  # remembered; an instance name is never used again
_MAX_WINDOWS = 100
_SEED = 0

CountsByFeature = Mapping[str, Sequence[int]]
"""The counts of each feature's bins."""


@dataclass(frozen=True)
class ServerCounts:
    """What one server has counted since its start."""

    instance: str
    images: int
    features: CountsByFeature
    embedded: int = 0
    """Number of embeddings in its sample since its start; 0 for a model without embeddings."""
    embeddings: str = ""
    """The newest of them, as `EmbeddingReference.encode` returns them."""


@dataclass(frozen=True)
class DriftWindow:
    """A full window of images of all servers, with its result."""

    ended: datetime
    images: int
    judgement: Mapping[str, Any]
    """The result as a dictionary, see DriftResult.to_dict."""

    @property
    def verdict(self) -> DriftVerdict:
        return DriftVerdict(self.judgement["verdict"])

    @property
    def reason(self) -> str:
        return str(self.judgement["reason"])


@dataclass(frozen=True)
class DriftRecord:
    """The drift record of one version."""

    images: int = 0
    """Of all servers, since the version was first served."""
    filling: ServerCounts = field(default_factory=lambda: ServerCounts("", 0, {}))
    """The window that is not full yet."""
    servers: Mapping[str, ServerCounts] = field(default_factory=dict)
    """The last counts of each server, by instance."""
    windows: tuple[DriftWindow, ...] = ()
    """Oldest first."""

    def with_counts(
        self,
        reports: Sequence[ServerCounts],
        reference: DriftReference,
        *,
        window: int,
        false_alarms: float,
        now: datetime,
    ) -> "DriftRecord":
        """The record with the new counts of the servers; if the window is full, its result is added.

        `window` is the number of images in a window. Raises ValueError for counts that do not fit the reference, or are
        below the last counts of the same server.
        """
        counts = reference.join_counts(self.filling.features) if self.filling.features else reference.zero_counts()
        sample = None if reference.embedding is None else [reference.embedding.decode(self.filling.embeddings)]
        images, servers = 0, dict(self.servers)
        for report in reports:
            before = servers.pop(report.instance, None)
            added = reference.join_counts(report.features)
            if before is not None:
                added = added - reference.join_counts(before.features)
            if np.any(added < 0):
                raise ValueError(f"the counts of server {report.instance} have decreased")
            counts = counts + added
            images += report.images - (before.images if before else 0)
            if reference.embedding is not None and sample is not None:
                sample.append(_new_embeddings(reference.embedding, report, before))
            servers[report.instance] = replace(report, embeddings="")
        embeddings = None if sample is None else _at_most(MAX_EMBEDDINGS, np.concatenate(sample))
        filled = self.filling.images + images
        servers = dict(list(servers.items())[-_MAX_SERVERS:])
        if filled < window:
            filling = ServerCounts("", filled, reference.split_counts(counts))
            if reference.embedding is not None and embeddings is not None:
                encoded = reference.embedding.encode(embeddings)
                filling = replace(filling, embedded=len(embeddings), embeddings=encoded)
            return replace(self, images=self.images + images, filling=filling, servers=servers)
        full = DriftWindow(now, filled, detect_drift(reference, counts, false_alarms, embeddings).to_dict())
        return DriftRecord(images=self.images + images, servers=servers, windows=(*self.windows, full)[-_MAX_WINDOWS:])

    def result(self, window: int) -> DriftResult:
        """Verdict and reason of the newest full window."""
        if not self.windows:
            return too_few_images(self.filling.images, window)
        return DriftResult(self.windows[-1].verdict, self.windows[-1].reason)

    def to_json(self) -> str:
        return json.dumps(
            {
                "images": self.images,
                "filling": _counts_to_json(self.filling),
                "servers": {name: _counts_to_json(server) for name, server in self.servers.items()},
                "windows": [
                    {"ended": each.ended.isoformat(), "images": each.images, "judgement": each.judgement}
                    for each in self.windows
                ],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, content: bytes) -> "DriftRecord":
        """Raises ValueError, KeyError or TypeError if the content is not a drift record."""
        stored = json.loads(content)
        return cls(
            images=int(stored["images"]),
            filling=counts_from_json("", stored["filling"]),
            servers={name: counts_from_json(name, server) for name, server in stored["servers"].items()},
            windows=tuple(
                DriftWindow(datetime.fromisoformat(each["ended"]), int(each["images"]), each["judgement"])
                for each in stored["windows"]
            ),
        )


def _new_embeddings(
    reference: EmbeddingReference, report: ServerCounts, before: ServerCounts | None
) -> ProjectedEmbeddings:
    """The embeddings of a server's sample that it did not have `before`."""
    new = report.embedded - (before.embedded if before else 0)
    if new < 0:
        raise ValueError(f"the counts of server {report.instance} have decreased")
    newest = reference.decode(report.embeddings)
    return newest[max(0, len(newest) - new) :]


def _at_most(count: int, embeddings: ProjectedEmbeddings) -> ProjectedEmbeddings:
    """The embeddings, or a random sample of them if there are more than `count`."""
    if len(embeddings) <= count:
        return embeddings
    rows = np.random.default_rng(_SEED).permutation(len(embeddings))[:count]
    return embeddings[np.sort(rows)]


def _counts_to_json(counts: ServerCounts) -> dict[str, Any]:
    stored: dict[str, Any] = {
        "images": counts.images,
        "features": {name: [*bins] for name, bins in counts.features.items()},
    }
    if not counts.embedded:
        return stored
    return {**stored, "embedded": counts.embedded, "embeddings": counts.embeddings}


def counts_from_json(instance: str, stored: Mapping[str, Any]) -> ServerCounts:
    """The counts of a server, from its report or from a record. Raises ValueError, KeyError or TypeError."""
    embedded, embeddings = int(stored.get("embedded", 0)), str(stored.get("embeddings", ""))
    return ServerCounts(instance, int(stored["images"]), stored["features"], embedded, embeddings)
