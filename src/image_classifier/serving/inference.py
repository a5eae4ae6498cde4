"""Decoding and inference: every protocol sends its images to the model through a slot of this module."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import orjson

from image_classifier.errors import ImageError
from image_classifier.images import Dimensions, decode_with_metadata
from image_classifier.package import ActivationMaps, Images, Model, ModelIdentity, Probabilities, top_classes
from image_classifier.serving.http.admission import Admission
from image_classifier.serving.http.error_responses import too_many
from image_classifier.serving.http.request_body import Upload
from image_classifier.serving.observe.drift_monitor import DriftMonitor
from image_classifier.serving.observe.metrics import Metrics

_DECIMALS = 6
_MAX_IMAGES = 4096
_MAX_LARGEST_IMAGES = 4
"""Limit on the pixels of all images of a request, in multiples of `max_pixels`. An image of that size takes only a few
kilobytes, so that a request of 20 MiB could occupy a slot for minutes."""


class Inference:
    """A model, and admission to it."""

    def __init__(
        self, model: Model, admission: Admission, metrics: Metrics, drift: DriftMonitor, max_pixels: int
    ) -> None:
        self.model, self.metrics, self.drift, self.max_pixels = model, metrics, drift, max_pixels
        self.large_image_lock = threading.Lock()
        self._admission = admission

    @contextmanager
    def slot(self) -> Iterator["Slot"]:
        """Wait for a slot and hold it; raises RequestError (503) if the server is overloaded."""
        started = perf_counter()
        with self._admission.slot():
            self.metrics.queued(perf_counter() - started)
            yield Slot(self)


class Slot:
    """The use of the model by one request, with the time that decoding and inference take."""

    def __init__(self, inference: Inference) -> None:
        self._inference, self._model = inference, inference.model
        self._decode_seconds = self._infer_seconds = 0.0
        self._dimensions: list[Dimensions] = []

    def decode(self, uploads: Sequence[Upload]) -> Images:
        """Decode the images of a request; returns uint8 [N, S, S, 3].

        Raises ImageError, with the name of the file if it has one, and RequestError (413) for too many images or
        pixels.
        """
        if len(uploads) > _MAX_IMAGES:
            raise too_many("images", _MAX_IMAGES)
        started = perf_counter()
        size, framing = self._model.package.image_size, self._model.package.framing
        images = np.empty((len(uploads), size, size, 3), dtype=np.uint8)
        limit, lock = self._inference.max_pixels, self._inference.large_image_lock
        pixels = 0
        for number, upload in enumerate(uploads):
            try:
                images[number], dimensions, _ = decode_with_metadata(upload.data, size, limit, lock, framing=framing)
            except ImageError as error:
                if upload.name is None:
                    raise
                raise type(error)(f"{upload.name}: {error}") from error
            self._dimensions.append(dimensions)
            pixels += dimensions.width * dimensions.height
            if pixels > _MAX_LARGEST_IMAGES * limit:
                raise too_many("pixels", _MAX_LARGEST_IMAGES * limit)
        seconds = perf_counter() - started
        self._decode_seconds += seconds
        self._inference.metrics.decoded(seconds)
        return images

    def predict(self, images: Images) -> Probabilities:
        """Probabilities, float32 [N, K], of a client's images, uint8 [N, S, S, 3], which the drift monitor counts."""
        drift, embeddings = self._inference.drift, None
        started = perf_counter()
        if drift.uses_embeddings:
            probabilities, embeddings = self._model.probabilities_and_embeddings(images)
        else:
            probabilities = self._model.probabilities(images)
        self._inferred(images, probabilities, perf_counter() - started)
        drift.observe(images, probabilities, self._dimensions, embeddings)
        return probabilities

    def predict_unmonitored(self, images: Images) -> Probabilities:
        """Like `predict`, for images made by the server itself, which are no evidence of drift."""
        started = perf_counter()
        probabilities = self._model.probabilities(images)
        self._inferred(images, probabilities, perf_counter() - started)
        return probabilities

    def predict_with_activation_maps(self, images: Images) -> tuple[Probabilities, ActivationMaps]:
        """Like `predict_unmonitored`, with activation maps, float32 [N, K, H, W], which the model must return."""
        started = perf_counter()
        probabilities, maps = self._model.probabilities_and_activation_maps(images)
        self._inferred(images, probabilities, perf_counter() - started)
        return probabilities, maps

    def _inferred(self, images: Images, probabilities: Probabilities, seconds: float) -> None:
        self._infer_seconds += seconds
        first_class = self._model.classes[int(probabilities[0].argmax())]
        self._inference.metrics.inferred(seconds, len(images), first_class)

    def to_json(self, content: Mapping[str, object], model: Mapping[str, str], request_id: str) -> str:
        """The JSON text of a response: `content`, the model's identity, the time of each stage, the request ID."""
        milliseconds = {"decode": round(self._decode_seconds * 1e3, 3), "infer": round(self._infer_seconds * 1e3, 3)}
        about = {"model": model, "milliseconds": milliseconds, "request_id": request_id}
        return orjson.dumps({**content, **about}, option=orjson.OPT_APPEND_NEWLINE).decode()


class PredictHandler:
    """Handles requests to /predict, for Flask and for the hot path."""

    def __init__(self, inference: Inference, identity: ModelIdentity, top: int) -> None:
        self._inference, self._top = inference, top
        self._model = identity.to_dict()

    def respond(self, uploads: Sequence[Upload], top: int | None, request_id: str) -> str:
        """The JSON text of the predictions, with `top` classes each; raises RequestError and ImageError."""
        with self._inference.slot() as slot:
            probabilities = slot.predict(slot.decode(uploads))
        classes = self._inference.model.classes
        predictions = [
            {"file": upload.name, **ranked_prediction(row, classes, top or self._top)}
            for upload, row in zip(uploads, probabilities, strict=True)
        ]
        return slot.to_json({"predictions": predictions}, self._model, request_id)


def ranked_prediction(probabilities: Probabilities, classes: Sequence[str], top: int) -> dict[str, object]:
    """The most probable class of one image, float32 [K], and its `top` most probable classes in order."""
    entries = [
        {"label": label, "probability": round(probability, _DECIMALS)}
        for label, probability in top_classes(probabilities, classes, top)
    ]
    return {**entries[0], "top": entries}
