"""Metrics in Prometheus's text format, summed over the workers."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from image_classifier.package import ModelIdentity

_BUCKET_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one worker, and the text for those of all."""

    def __init__(self, identity: ModelIdentity, *shared: Collector) -> None:
        """`shared`: collectors whose values are already those of all workers."""
        registry = CollectorRegistry()
        self._registry = registry
        self._shared = shared
        self._requests = Counter(
            "image_classifier_requests", "Responses by route and status.", ("route", "status"), registry=registry
        )
        self._request_seconds = Histogram(
            "image_classifier_request_seconds",
            "Latency from the request's headers to the response.",
            ("route",),
            buckets=_BUCKET_SECONDS,
            registry=registry,
        )
        stage_seconds = Histogram(
            "image_classifier_stage_seconds",
            "Time of a request in the queue, in decoding and in inference.",
            ("stage",),
            buckets=_BUCKET_SECONDS,
            registry=registry,
        )
        self._stages = {stage: stage_seconds.labels(stage) for stage in ("queue", "decode", "infer")}
        self._by_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._images = Counter("image_classifier_images", "Images that the model classified.", registry=registry)
        # By the first image alone: the images of one request are often alike, requests are not.
        self._requests_by_class = Counter(
            "image_classifier_requests_by_class",
            "Requests by the predicted class of their first image.",
            ("class",),
            registry=registry,
        )
        self._by_class: dict[str, Counter] = {}
        self._in_flight = Gauge(
            "image_classifier_requests_inside",
            "Requests that run or wait in the queue.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        info = Gauge(
            "image_classifier_model",
            "Identity of the served model; always 1.",
            tuple(identity.to_dict()),
            registry=registry,
            multiprocess_mode="max",
        )
        info.labels(**identity.to_dict()).set(1)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a response."""
        children = self._by_route.get((route, status))
        if children is None:
            # Cached, as looking up labels takes longer than counting.
            children = self._requests.labels(route, str(int(status))), self._request_seconds.labels(route)
            self._by_route[route, status] = children
        counter, histogram = children
        counter.inc()
        histogram.observe(seconds)

    def set_in_flight(self, count: int) -> None:
        self._in_flight.set(count)

    def queued(self, seconds: float) -> None:
        """Count the time that a request waited for a slot."""
        self._stages["queue"].observe(seconds)

    def decoded(self, seconds: float) -> None:
        self._stages["decode"].observe(seconds)

    def inferred(self, seconds: float, images: int, first_class: str) -> None:
        """Count an inference on `images` images, the first of which is of `first_class`."""
        self._stages["infer"].observe(seconds)
        self._images.inc(images)
        counter = self._by_class.get(first_class)
        if counter is None:
            counter = self._by_class[first_class] = self._requests_by_class.labels(first_class)
        counter.inc()

    def text(self) -> bytes:
        """The metrics of all workers."""
        # Set by a server with several workers, before prometheus_client was imported.
        if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            counts = generate_latest(self._registry)
        else:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            counts = generate_latest(registry)
        return counts + b"".join(generate_latest(collector) for collector in self._shared)
