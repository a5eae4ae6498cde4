"""The server with one injected fault. As a candidate it is healthy, like a fault that only real requests reveal."""

import os
import random
import time
from typing import Any

from image_classifier.cli import main
from image_classifier.serving import inference

FAULT = os.environ.get("PLANTED", "")
IS_CANDIDATE = "-candidate-" in os.environ.get("K_SERVICE", "")


def fail(self: Any, *arguments: Any) -> str:
    """Fail 5 % of the requests."""
    if random.random() < 0.05:
        raise RuntimeError("planted")
    return str(respond(self, *arguments))


def slow(self: Any, *arguments: Any) -> str:
    """Take three times as long."""
    started = time.perf_counter()
    text = str(respond(self, *arguments))
    time.sleep(2 * (time.perf_counter() - started))
    return text


def one_class(self: Any, images: Any) -> Any:
    """Predict the last class for every image; the tests' image is of the first."""
    started = time.perf_counter()
    probabilities = self._model.probabilities(images) * 0
    probabilities[:, -1] = 1
    self._metrics.inferred(time.perf_counter() - started, len(images), self._model.classes[-1])
    return probabilities


respond = inference.PredictHandler.respond
if FAULT and not IS_CANDIDATE:
    owner, name, replacement = {
        "errors": (inference.PredictHandler, "respond", fail),
        "slow": (inference.PredictHandler, "respond", slow),
        "one-class": (inference.Slot, "predict", one_class),
    }[FAULT]
    setattr(owner, name, replacement)
main()
