"""The one way to the model: every route's images are decoded and asked about here, in turn."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import orjson

from image_classifier.errors import ImageError
from image_classifier.images import Extent, decode_with_original
from image_classifier.package import Identity, Images, Model, Probabilities, likeliest
from image_classifier.serving.http.admission import Admission
from image_classifier.serving.http.error_responses import too_many
from image_classifier.serving.http.request_body import Upload
from image_classifier.serving.observe.drift_windows import Drift
from image_classifier.serving.observe.metrics import Metrics

_DECIMALS = 6
_MOST_IMAGES = 4096
_MOST_LARGEST = 4
"""The images of a request have at most the pixels of so many of the largest size. A few kilobytes can state each of
those, and whoever waits for a turn would wait minutes for what 20 MiB can."""


class Inference:
    """A model, and who may ask it when."""

    def __init__(
        self, model: Model, admission: Admission, metrics: Metrics, drift: Drift, max_pixels: int
    ) -> None:
        self.model = model
        self._admission, self._metrics, self._drift, self._max_pixels = admission, metrics, drift, max_pixels
        self._large = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator["Turn"]:
        """Wait for a turn, and have it; raises RequestError (503) where too many others do."""
        started = perf_counter()
        with self._admission.turn():
            self._metrics.waited(perf_counter() - started)
            yield Turn(self.model, self._metrics, self._drift, self._max_pixels, self._large)


class Turn:
    """One request's time with the model, which it measures."""

    def __init__(
        self, model: Model, metrics: Metrics, drift: Drift, max_pixels: int, large: threading.Lock
    ) -> None:
        self._model, self._metrics, self._drift = model, metrics, drift
        self._max_pixels, self._large = max_pixels, large
        self._decode_seconds = self._infer_seconds = 0.0
        self._extents: list[Extent] = []

    def decode(self, uploads: Sequence[Upload]) -> Images:
        """The images uint8 [N, S, S, 3].

        Raises ImageError, which names a file that has a name, and RequestError (413) for too many images or pixels.
        """
        if len(uploads) > _MOST_IMAGES:
            raise too_many("images", _MOST_IMAGES)
        started = perf_counter()
        size = self._model.package.image_size
        images = np.empty((len(uploads), size, size, 3), dtype=np.uint8)
        pixels, most = 0, _MOST_LARGEST * self._max_pixels
        for number, upload in enumerate(uploads):
            try:
                images[number], extent, _ = decode_with_original(
                    upload.data, size, self._max_pixels, self._large
                )
            except ImageError as error:
                if upload.name is None:
                    raise
                raise type(error)(f"{upload.name}: {error}") from error
            self._extents.append(extent)
            pixels += extent.width * extent.height
            if pixels > most:
                raise too_many("pixels", most)
        seconds = perf_counter() - started
        self._decode_seconds += seconds
        self._metrics.decoded(seconds)
        return images

    def ask(self, images: Images) -> Probabilities:
        """The probabilities float32 [N, K] of the images uint8 [N, S, S, 3] of a request, which are counted."""
        probabilities = self.ask_aside(images)
        self._drift.see(images, probabilities, self._extents)
        return probabilities

    def ask_aside(self, images: Images) -> Probabilities:
        """The same of images that were made here, which say nothing of what users send."""
        started = perf_counter()
        probabilities = self._model.probabilities(images)
        seconds = perf_counter() - started
        self._infer_seconds += seconds
        self._metrics.inferred(seconds, len(images), self._model.classes[int(probabilities[0].argmax())])
        return probabilities

    def answer(self, content: Mapping[str, object], model: Mapping[str, str], request_id: str) -> str:
        """The JSON text of an answer of ours: its content, who gave it, what the stages took, to which request."""
        milliseconds = {
            "decode": round(self._decode_seconds * 1e3, 3),
            "infer": round(self._infer_seconds * 1e3, 3),
        }
        about = {"model": model, "milliseconds": milliseconds, "request_id": request_id}
        return orjson.dumps({**content, **about}, option=orjson.OPT_APPEND_NEWLINE).decode()


class Predictions:
    """Answers about images."""

    def __init__(self, inference: Inference, identity: Identity, top: int) -> None:
        self._inference, self._top = inference, top
        self._model = identity.to_dict()

    def answer(self, uploads: Sequence[Upload], top: int | None, request_id: str) -> str:
        """The JSON text for a request's images; raises RequestError and ImageError."""
        with self._inference.turn() as turn:
            probabilities = turn.ask(turn.decode(uploads))
        classes = self._inference.model.classes
        predictions = [
            {"file": upload.name, **ranking(row, classes, top or self._top)}
            for upload, row in zip(uploads, probabilities, strict=True)
        ]
        return turn.answer({"predictions": predictions}, self._model, request_id)


def ranking(probabilities: Probabilities, classes: Sequence[str], top: int) -> dict[str, object]:
    """The likeliest class of one image, float32 [K], and the `top` likeliest in order."""
    entries = [
        {"label": label, "probability": round(probability, _DECIMALS)}
        for label, probability in likeliest(probabilities, classes, top)
    ]
    return {**entries[0], "top": entries}
