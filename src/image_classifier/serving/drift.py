"""Whether the images that are asked about are like those that the model was made with. Nothing here needs Flask."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from image_classifier.drift import (
    DriftJudgement,
    DriftVerdict,
    Reference,
    judge_drift,
    no_reference,
    too_few_images,
)
from image_classifier.images import Extent
from image_classifier.package import Images, Package, Probabilities
from image_classifier.serving.identity import Identity
from image_classifier.serving.observation import Observations
from image_classifier.settings import Settings

_MOST_OF_A_REQUEST = 64
"""Of a request with more images so many, spread over it, are looked at: that is quick beside the request."""


class Drift:
    """Looks at images and answers, keeps counts alone, and judges the newest full window when it is asked."""

    def __init__(self, settings: Settings, package: Package) -> None:
        """To be made before workers are forked, which then count together; raises PackageError."""
        self._window, self._false_alarms = settings.drift_window, settings.drift_false_alarms
        self._reference = Reference.of(package)
        self._observations = Observations(self._reference.bins if self._reference else 0, self._window)
        self._lock = threading.Lock()
        self._judged = 0, too_few_images(0, self._window) if self._reference else no_reference()
        """The number of the newest window that was judged, and the judgement."""

    def see(self, images: Images, probabilities: Probabilities, extents: Sequence[Extent]) -> None:
        """Count images uint8 [N, S, S, 3], the answers to them, and the sizes of those that came encoded."""
        reference = self._reference
        if reference is None:
            return
        places: list[int] = []
        step = -(-len(images) // _MOST_OF_A_REQUEST)
        for image, answer in zip(images[::step], probabilities[::step], strict=True):
            places += reference.places_of_image(image)
            places += reference.places_of_answer(answer)
        for width, height in extents[::step]:
            places += reference.places_of_size(width, height)
        self._observations.add(-(-len(images) // step), places)

    @property
    def windows(self) -> int:
        """How many windows were full."""
        return self._observations.windows

    def judgement(self) -> DriftJudgement:
        """Of the newest full window; made once for each."""
        if self._reference is None:
            return self._judged[1]
        with self._lock:
            windows = self._observations.windows
            if windows != self._judged[0]:
                seen = self._observations.seen()
                self._judged = seen.windows, judge_drift(self._reference, seen.last, self._false_alarms)
            elif not windows:
                self._judged = 0, too_few_images(self._observations.seen().images, self._window)
            return self._judged[1]

    def report(self, identity: Identity) -> dict[str, Any]:
        """What /drift answers: the verdict, and the counts from which a collector makes one of all servers."""
        judgement, seen = self.judgement(), self._observations.seen()
        return {
            **judgement.to_dict(),
            "false_alarm_rate": self._false_alarms,
            "window": {
                "images": seen.last_images,
                "needed": self._window,
                "number": seen.windows,
                "filling": seen.in_window,
            },
            "counts": {
                "instance": self._observations.instance,
                "images": seen.images,
                "features": self._reference.by_feature(seen.counts) if self._reference else {},
            },
            "model": identity.to_dict(),
        }


class DriftCollector(Collector):
    """The same for Prometheus."""

    def __init__(self, drift: Drift) -> None:
        self._drift = drift

    def collect(self) -> Iterator[Metric]:
        judgement = self._drift.judgement()
        verdict = GaugeMetricFamily(
            "image_classifier_drift",
            "What the newest full window of images tells: 1 for the verdict, 0 for the others.",
            labels=["verdict"],
        )
        for word in DriftVerdict:
            verdict.add_metric([word.value], float(word is judgement.verdict))
        chance = GaugeMetricFamily(
            "image_classifier_drift_p_value",
            "The chance of such a difference from the reference where nothing has changed.",
            labels=["feature"],
        )
        distance = GaugeMetricFamily(
            "image_classifier_drift_distance",
            "How far the newest full window is from the reference, 0 to 1.",
            labels=["feature"],
        )
        for finding in judgement.findings:
            chance.add_metric([finding.name], finding.p_value)
            distance.add_metric([finding.name], finding.distance)
        windows = CounterMetricFamily(
            "image_classifier_drift_windows", "Full windows of images.", value=self._drift.windows
        )
        yield from (verdict, chance, distance, windows)
