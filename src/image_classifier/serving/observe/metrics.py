"""What is counted, in Prometheus's text format; right with several workers, too."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from image_classifier.package import Identity

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counts of one worker, and the text for those of all."""

    def __init__(self, identity: Identity, *shared: Collector) -> None:
        """`shared`: collectors of what the workers count together in a way of their own."""
        registry = CollectorRegistry()
        self._registry = registry
        self._shared = shared
        self._requests = Counter(
            "image_classifier_requests", "Requests answered.", ("route", "status"), registry=registry
        )
        self._request_seconds = Histogram(
            "image_classifier_request_seconds",
            "Time from the headers to the answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        stage_seconds = Histogram(
            "image_classifier_stage_seconds",
            "Time that requests wait for their turn, and are decoded and inferred.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = {stage: stage_seconds.labels(stage) for stage in ("queue", "decode", "infer")}
        self._answered: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._images = Counter(
            "image_classifier_images", "Images that the model was asked about.", registry=registry
        )
        # Of the first image alone: the images of a request are often of a kind, requests are not.
        self._requests_by_class = Counter(
            "image_classifier_requests_by_class",
            "Requests by the class that their first image was given.",
            ("class",),
            registry=registry,
        )
        self._classes: dict[str, Counter] = {}
        self._inside = Gauge(
            "image_classifier_requests_inside",
            "Requests at work or waiting for their turn.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        info = Gauge(
            "image_classifier_model",
            "The model that answers: always 1.",
            tuple(identity.to_dict()),
            registry=registry,
            multiprocess_mode="max",
        )
        info.labels(**identity.to_dict()).set(1)

    def request(self, route: str, status: int, seconds: float) -> None:
        answered = self._answered.get((route, status))
        if answered is None:
            # Found once: to look a label up takes longer than to count.
            answered = self._requests.labels(route, str(int(status))), self._request_seconds.labels(route)
            self._answered[route, status] = answered
        counter, histogram = answered
        counter.inc()
        histogram.observe(seconds)

    def waited(self, seconds: float) -> None:
        self._stages["queue"].observe(seconds)

    def inside(self, number: int) -> None:
        self._inside.set(number)

    def decoded(self, seconds: float) -> None:
        self._stages["decode"].observe(seconds)

    def inferred(self, seconds: float, images: int, first_class: str) -> None:
        self._stages["infer"].observe(seconds)
        self._images.inc(images)
        counter = self._classes.get(first_class)
        if counter is None:
            counter = self._classes[first_class] = self._requests_by_class.labels(first_class)
        counter.inc()

    def text(self) -> bytes:
        """All workers' counts."""
        # Where a server has several workers, it set this before prometheus_client was imported.
        if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            counts = generate_latest(self._registry)
        else:
            shared = CollectorRegistry()
            MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
            counts = generate_latest(shared)
        return counts + b"".join(generate_latest(collector) for collector in self._shared)
