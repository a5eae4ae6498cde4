"""What all ways in share: the model and the turns with it, the counts, the limits. Nothing here needs Flask."""

import threading

from image_classifier.package import Identity, Model
from image_classifier.serving.http.admission import Admission, MemoryMeter
from image_classifier.serving.http.hot_path import Application, HotPath
from image_classifier.serving.http.response_headers import AnswerHeaders
from image_classifier.serving.inference import Inference, Predictions
from image_classifier.serving.observe.drift_windows import Drift, DriftCollector
from image_classifier.serving.observe.metrics import Metrics
from image_classifier.settings import Settings

_BODIES_IN_MEMORY = 4
"""All request bodies together are at most so many times the largest one."""


class Service:
    """A model that is loaded and verified, and what is needed to answer with it."""

    def __init__(
        self,
        settings: Settings,
        model: Model,
        identity: Identity,
        *,
        places: int = 1,
        draining: threading.Event | None = None,
        drift: Drift | None = None,
    ) -> None:
        """It works on `places` requests at a time. From the moment `draining` is set it says that it is not ready.

        `drift` is what several workers count in together.
        """
        self.settings, self.identity, self.package = settings, identity, model.package
        self.draining = draining or threading.Event()
        self.drift = drift or Drift(settings, model.package)
        self.metrics = Metrics(identity, DriftCollector(self.drift))
        self.admission = Admission(
            places=places,
            queue=settings.queue,
            patience=settings.queue_timeout,
            report=self.metrics.inside,
        )
        self.headers = AnswerHeaders(settings, identity)
        self.memory = MemoryMeter(_BODIES_IN_MEMORY * settings.max_upload)
        self.inference = Inference(model, self.admission, self.metrics, self.drift, settings.max_pixels)
        self.predictions = Predictions(self.inference, identity, settings.top)

    @property
    def has_hot_path(self) -> bool:
        """Whether requests may be answered before Flask, which checks tokens and origins."""
        return not (self.settings.token or self.settings.cors_origins)

    def hot_path(self, application: Application) -> HotPath:
        """The short way around an application."""
        return HotPath(
            application,
            predictions=self.predictions,
            admission=self.admission,
            headers=self.headers,
            metrics=self.metrics,
            memory=self.memory,
            max_upload=self.settings.max_upload,
            draining=self.draining,
        )
