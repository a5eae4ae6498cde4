"""Drift monitor: compares the images that the server receives with the reference statistics of its package.

A request only queues its images, which takes 3 µs. A background thread counts them a moment later, several at a time,
which takes half as long per image as between the steps of a request. Embeddings are projected before they are queued.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from image_classifier.images import Dimensions
from image_classifier.monitoring import (
    DriftReference,
    DriftResult,
    DriftVerdict,
    ProjectedEmbeddings,
    detect_drift,
    no_reference,
    too_few_images,
)
from image_classifier.package import Embeddings, Images, ModelIdentity, Package, Probabilities, center_crop
from image_classifier.serving.observe.feature_counts import SharedCounts

_MAX_PER_REQUEST = 64  # of a request with more images, an evenly spaced sample of this size is counted
_MAX_QUEUED = 128  # further images are not counted
_INTERVAL_SECONDS = 0.5  # time between two rounds of counting
_BATCH_IMAGES, _BATCH_PAUSE_SECONDS = 4, 0.016
"""Counting blocks requests, so it is done in small batches with pauses. Above about 130 images a second, only a sample
is counted."""
_IDLE_INTERVALS = 60  # after this many intervals without an image the thread ends, until the next image


class DriftMonitor:
    """Counts the features of images and predictions, keeps no image, and tests the newest full window on request."""

    def __init__(self, package: Package, *, window: int, false_alarms: float) -> None:
        """Create it before workers are forked, which then share the counts.

        A window is full with `window` images; of unchanged windows at most the fraction `false_alarms` is called drift.
        Raises PackageError for reference statistics that cannot be used.
        """
        self._window, self._false_alarms = window, false_alarms
        self._reference = DriftReference.of(package)
        embedding = self._reference.embedding if self._reference else None
        self._counts = SharedCounts(
            self._reference.bin_count if self._reference else 0, window, embedding.dimensions if embedding else 0
        )
        self._images: deque[tuple[Images, Probabilities, ProjectedEmbeddings | None]] = deque()
        self._dimensions: deque[Dimensions] = deque()
        self._count_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._detect_lock = threading.Lock()
        self._latest = 0, too_few_images(0, window) if self._reference else no_reference()
        """The number of the newest window that was tested, and the result."""

    @property
    def uses_embeddings(self) -> bool:
        """Whether the reference has embeddings to compare with."""
        return self._reference is not None and self._reference.embedding is not None

    def observe(
        self,
        images: Images,
        probabilities: Probabilities,
        dimensions: Sequence[Dimensions],
        embeddings: Embeddings | None = None,
    ) -> None:
        """Queue images, uint8 [N, S, S, 3], and their probabilities, float32 [N, K], for counting.

        `dimensions` are the stored sizes of those images that arrived encoded. `embeddings`, float32 [N, E], are
        required if `uses_embeddings`.
        """
        limit = min(_MAX_PER_REQUEST, _MAX_QUEUED - len(self._images))
        if self._reference is None or limit <= 0:
            return
        step = -(-len(images) // limit)
        projected: Sequence[ProjectedEmbeddings | None] = [None] * len(images[::step])
        if embeddings is not None and self._reference.embedding is not None:
            projected = [*self._reference.embedding.project(embeddings[::step])]
        for image, row, embedding in zip(images[::step], probabilities[::step], projected, strict=True):
            # Copies, because a view would keep the arrays of the whole request in memory.
            self._images.append((center_crop(image).copy(), row.copy(), embedding))
        self._dimensions.extend(dimensions[::step])
        if self._thread is None or not self._thread.is_alive():
            # Not earlier, as threads do not survive the fork of a worker.
            self._thread = threading.Thread(target=self._count_periodically, name="drift", daemon=True)
            self._thread.start()

    def _count_periodically(self) -> None:
        idle = 0
        while idle < _IDLE_INTERVALS:
            time.sleep(_INTERVAL_SECONDS)
            idle = 0 if self._images else idle + 1
            while self._images:
                self._count_queued(_BATCH_IMAGES)
                time.sleep(_BATCH_PAUSE_SECONDS)

    def _count_queued(self, limit: int = 2 * _MAX_QUEUED) -> None:
        """Count up to `limit` images of this worker's queue."""
        reference = self._reference
        if reference is None:
            return
        with self._count_lock:
            while self._dimensions:
                self._counts.add(0, reference.size_bins(*self._dimensions.popleft()))
            for _ in range(min(limit, len(self._images))):
                image, row, embedding = self._images.popleft()
                bins = reference.image_bins(image) + reference.prediction_bins(row)
                self._counts.add(1, bins, embedding)

    @property
    def windows(self) -> int:
        """Number of full windows."""
        self._count_queued()
        return self._counts.windows

    def result(self) -> DriftResult:
        """The result for the newest full window, computed once per window."""
        if self._reference is None:
            return self._latest[1]
        with self._detect_lock:
            windows = self.windows
            if windows != self._latest[0]:
                counts = self._counts.snapshot()
                result = detect_drift(self._reference, counts.last, self._false_alarms, counts.last_embeddings)
                self._latest = counts.windows, result
            elif not windows:
                self._latest = 0, too_few_images(self._counts.snapshot().images, self._window)
            return self._latest[1]

    def report(self, identity: ModelIdentity) -> dict[str, Any]:
        """Content of /drift: the result, and the counts, which a collector adds up over all servers."""
        result, counts = self.result(), self._counts.snapshot()
        embedding = self._reference.embedding if self._reference else None
        return {
            **result.to_dict(),
            "false_alarm_rate": self._false_alarms,
            "window": {
                "images": counts.last_images,
                "needed": self._window,
                "number": counts.windows,
                "filling": counts.in_window,
            },
            "counts": {
                "instance": self._counts.instance,
                "images": counts.images,
                "features": self._reference.split_counts(counts.counts) if self._reference else {},
                **(
                    {"embedded": counts.embedded, "embeddings": embedding.encode(counts.embeddings)}
                    if embedding
                    else {}
                ),
            },
            "model": identity.to_dict(),
        }


class DriftCollector(Collector):
    """The result as Prometheus metrics."""

    def __init__(self, drift: DriftMonitor) -> None:
        self._drift = drift

    def collect(self) -> Iterator[Metric]:
        result = self._drift.result()
        verdict = GaugeMetricFamily(
            "image_classifier_drift",
            "Verdict on the newest full window of images: 1 for the verdict that applies, 0 for the others.",
            labels=["verdict"],
        )
        for word in DriftVerdict:
            verdict.add_metric([word.value], float(word is result.verdict))
        p_value = GaugeMetricFamily(
            "image_classifier_drift_p_value",
            "Probability of such a difference from the reference by chance.",
            labels=["feature"],
        )
        distance = GaugeMetricFamily(
            "image_classifier_drift_distance",
            "Distance of the newest full window from the reference, 0 to 1.",
            labels=["feature"],
        )
        for feature in result.features:
            p_value.add_metric([feature.name], feature.p_value)
            distance.add_metric([feature.name], feature.distance)
        yield from (verdict, p_value, distance)
        yield CounterMetricFamily("image_classifier_drift_windows", "Full windows of images.", self._drift.windows)
