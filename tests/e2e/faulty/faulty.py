"""The server, with one fault. It is well as a candidate, as a fault would be that only real requests bring out."""

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
    return str(answer(self, *arguments))


def slow(self: Any, *arguments: Any) -> str:
    """Take three times as long."""
    started = time.perf_counter()
    text = str(answer(self, *arguments))
    time.sleep(2 * (time.perf_counter() - started))
    return text


def one_class(self: Any, images: Any) -> Any:
    """Answer the last class to every image; the tests' own one is of the first."""
    started = time.perf_counter()
    probabilities = self._model.probabilities(images) * 0
    probabilities[:, -1] = 1
    self._metrics.inferred(time.perf_counter() - started, len(images), self._model.classes[-1])
    return probabilities


answer = inference.Predictions.answer
if FAULT and not IS_CANDIDATE:
    owner, name, replacement = {
        "errors": (inference.Predictions, "answer", fail),
        "slow": (inference.Predictions, "answer", slow),
        "one-class": (inference.Turn, "ask", one_class),
    }[FAULT]
    setattr(owner, name, replacement)
main()
