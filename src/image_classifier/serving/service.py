"""What all protocols share: the model, admission, metrics, drift monitor and limits. Needs no Flask."""

import threading

from image_classifier.package import Model, ModelIdentity
from image_classifier.serving.http.admission import Admission, MemoryBudget
from image_classifier.serving.http.error_responses import not_found
from image_classifier.serving.http.response_headers import ResponseHeaders
from image_classifier.serving.inference import Inference, PredictHandler
from image_classifier.serving.observe.drift_monitor import DriftCollector, DriftMonitor
from image_classifier.serving.observe.metrics import Metrics
from image_classifier.serving.server_options import ServerOptions

_BODIES_IN_MEMORY = 4  # limit on the memory of all request bodies, in multiples of the largest body


class Service:
    """A loaded and verified model, and everything needed to answer requests with it."""

    def __init__(
        self,
        options: ServerOptions,
        model: Model,
        identity: ModelIdentity,
        *,
        slots: int = 1,
        draining: threading.Event | None = None,
        drift: DriftMonitor | None = None,
    ) -> None:
        """Handles `slots` requests at a time; is not ready once `draining` is set.

        Workers that are forked from one process share the monitor `drift`.
        """
        self.options, self.identity, self.package = options, identity, model.package
        self.draining = draining or threading.Event()
        self.drift = drift or DriftMonitor(
            model.package, window=options.drift_window, false_alarms=options.drift_false_alarms
        )
        self.metrics = Metrics(identity, DriftCollector(self.drift))
        self.admission = Admission(
            slots=slots, queue=options.queue, timeout=options.queue_timeout, on_change=self.metrics.set_in_flight
        )
        self.headers = ResponseHeaders(options.image, identity)
        self.memory = MemoryBudget(_BODIES_IN_MEMORY * options.max_upload)
        self.inference = Inference(model, self.admission, self.metrics, self.drift, options.max_pixels)
        self.predict = PredictHandler(self.inference, identity, options.top)

    @property
    def has_hot_path(self) -> bool:
        """Whether requests may bypass Flask, where tokens and origins are checked."""
        return not (self.options.token or self.options.cors_origins)

    def check_model_name(self, name: str) -> None:
        """Raise RequestError (404) unless `name` is the model's registered name or the setting `name`."""
        if name not in (self.identity.name, self.options.name):
            raise not_found(f"model {name!r} does not exist; this server serves only {self.identity.name}")
