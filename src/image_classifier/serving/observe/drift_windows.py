"""Whether the images that are asked about are like those that the model was made with. Nothing here needs Flask.

A request only leaves what is to be looked at: that takes three microseconds. It is looked at a moment later, a few
images in one go, which takes half the time that each would take between the steps of its request.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from image_classifier.images import Extent
from image_classifier.monitoring import (
    DriftJudgement,
    DriftReference,
    DriftVerdict,
    judge_drift,
    no_reference,
    too_few_images,
)
from image_classifier.package import Identity, Images, Package, Probabilities, middle_of
from image_classifier.serving.observe.feature_counts import Observations
from image_classifier.settings import Settings

_MOST_OF_A_REQUEST = 64
"""Of a request with more images so many, spread over it, are looked at."""
_MOST_WAITING, _PAUSE_SECONDS = 128, 0.5
"""So many images wait at most, and so long until they are looked at."""
_AT_ONCE, _BREATH_SECONDS = 4, 0.016
"""So many are looked at in one go, for no request is answered meanwhile. Where more than some 130 a second come, those
are a sample of them."""
_IDLE_PAUSES = 60
"""After so many pauses without an image the thread ends, until the next one."""


class Drift:
    """Looks at images and answers, keeps counts alone, and judges the newest full window when it is asked."""

    def __init__(self, settings: Settings, package: Package) -> None:
        """To be made before workers are forked, which then count together; raises PackageError."""
        self._window, self._false_alarms = settings.drift_window, settings.drift_false_alarms
        self._reference = DriftReference.of(package)
        self._observations = Observations(self._reference.bins if self._reference else 0, self._window)
        self._images: deque[tuple[Images, Probabilities]] = deque()
        self._extents: deque[Extent] = deque()
        self._counting = threading.Lock()
        self._counter: threading.Thread | None = None
        self._judging = threading.Lock()
        self._judged = 0, too_few_images(0, self._window) if self._reference else no_reference()
        """The number of the newest window that was judged, and the judgement."""

    def see(self, images: Images, probabilities: Probabilities, extents: Sequence[Extent]) -> None:
        """Leave for counting: images uint8 [N, S, S, 3], the answers to them, the sizes of those that came encoded."""
        most = min(_MOST_OF_A_REQUEST, _MOST_WAITING - len(self._images))
        if self._reference is None or most <= 0:
            return
        step = -(-len(images) // most)
        for image, answer in zip(images[::step], probabilities[::step], strict=True):
            # Copies: what they are parts of may be as large as a request, and is given back with it.
            self._images.append((middle_of(image).copy(), answer.copy()))
        self._extents.extend(extents[::step])
        if self._counter is None or not self._counter.is_alive():
            # Not before, for threads do not survive the fork of a worker.
            self._counter = threading.Thread(target=self._count_in_pauses, name="drift", daemon=True)
            self._counter.start()

    def _count_in_pauses(self) -> None:
        idle = 0
        while idle < _IDLE_PAUSES:
            time.sleep(_PAUSE_SECONDS)
            idle = 0 if self._images else idle + 1
            while self._images:
                self._count(_AT_ONCE)
                time.sleep(_BREATH_SECONDS)

    def _count(self, most: int = 2 * _MOST_WAITING) -> None:
        """Count what waits in this worker, or so many of it."""
        reference = self._reference
        if reference is None:
            return
        with self._counting:
            while self._extents:
                self._observations.add(0, reference.places_of_size(*self._extents.popleft()))
            for _ in range(min(most, len(self._images))):
                image, answer = self._images.popleft()
                places = reference.places_of_image(image) + reference.places_of_answer(answer)
                self._observations.add(1, places)

    @property
    def windows(self) -> int:
        """How many windows were full."""
        self._count()
        return self._observations.windows

    def judgement(self) -> DriftJudgement:
        """Of the newest full window; made once for each."""
        if self._reference is None:
            return self._judged[1]
        with self._judging:
            windows = self.windows
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
