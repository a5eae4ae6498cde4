"""Acceptance test of a candidate at its own address, before it gets traffic."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed
from urllib3 import encode_multipart_formdata

from image_classifier.addresses import open_url, request_to
from image_classifier.errors import AcceptanceError
from image_classifier.package import GoldenImage, Package, encode_png
from image_classifier.text import Report, one_line

VERSION_HEADER = "X-Model-Version"
IMAGE_HEADER = "X-Server-Image"
TOLERANCE = 1e-3
"""Maximum difference of a probability: servers round them, and a wrong model or preprocessing differs by far more."""
_TIMED_REQUESTS = 30
_CONSECUTIVE_ANSWERS = 40
_RETRY_SECONDS = 0.5
_REQUEST_TIMEOUT_SECONDS = 30.0
_TEMPORARY_STATUSES = (404, 408, 425, 429, 500, 502, 503, 504)
"""A host name or route may not exist yet, and a pod may not be ready yet."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class ExpectedServer:
    """The server that should answer: its model version, and its image ("": any)."""

    version: str
    image: str

    def __str__(self) -> str:
        return f"version {self.version}" + (f" in {self.image}" if self.image else "")


@dataclass(frozen=True)
class AcceptanceResult:
    """What the test of an accepted candidate measured."""

    images: int
    largest_difference: float  # of a probability, from the recorded one
    latency_p95: float  # seconds for one image, as a client measures it
    waited: float  # seconds until the expected server answered


class _NotReadyError(Exception):
    """The expected server does not answer yet."""


def try_candidate(
    url: str, package: Package, expected: ExpectedServer, *, max_latency: float, timeout: float, report: Report
) -> AcceptanceResult:
    """Wait until the expected server answers at `url`, then compare its answers with the recorded ones and time them.

    Raises AcceptanceError if it does not answer within `timeout` seconds, an answer differs from the recorded one, or
    the p95 latency exceeds `max_latency` seconds.
    """
    golden = package.golden
    started = time.monotonic()

    def attempt() -> tuple[float, float, float]:
        _predict(url, [golden[0]], expected)
        waited = time.monotonic() - started
        report(f"{url} answers as {expected} after {waited:.1f} s")
        return waited, _largest_difference(url, package, expected), _latency_p95(url, golden[0], expected)

    failure = f"the candidate at {url} did not answer as {expected}"
    waited, difference, p95 = _retry(attempt, timeout, failure)
    if p95 > max_latency:
        raise AcceptanceError(
            f"the candidate has a p95 latency of {p95 * 1e3:,.0f} ms ({_TIMED_REQUESTS} requests of one image), but "
            f"max_latency is {max_latency * 1e3:,.0f} ms"
        )
    return AcceptanceResult(len(golden), difference, p95, waited)


def wait_for_rollout(url: str, expected: ExpectedServer, *, timeout: float) -> None:
    """Wait until enough consecutive answers come from the expected server.

    During a roll-out old and new server answer in turn: if the old one still got a tenth of the traffic, one of these
    answers would be its own with a probability of 99 %. Raises AcceptanceError after `timeout` seconds.
    """
    black = GoldenImage(encode_png(np.zeros((8, 8, 3), dtype=np.uint8)), "", ())

    def attempt() -> None:
        for _ in range(_CONSECUTIVE_ANSWERS):
            _predict(url, [black], expected)

    _retry(attempt, timeout, f"not all answers of {url} came from {expected}")


def _retry(attempt: Callable[[], Result], timeout: float, failure: str) -> Result:
    """Call `attempt` until it succeeds; raises AcceptanceError, with the last obstacle, after `timeout` seconds."""
    try:
        return Retrying(
            retry=retry_if_exception_type(_NotReadyError),
            stop=stop_after_delay(timeout),
            wait=wait_fixed(_RETRY_SECONDS),
            reraise=True,
        )(attempt)
    except _NotReadyError as error:
        raise AcceptanceError(f"{failure} within {timeout:g} s: {error}") from None


def _largest_difference(url: str, package: Package, expected: ExpectedServer) -> float:
    """The largest difference between an answered and a recorded probability, by both ways to send images."""
    golden = package.golden
    one_by_one = [_predict(url, [image], expected)[0] for image in golden]
    together = _predict(url, golden, expected, as_form=True)
    largest = 0.0
    for way, answers in (("alone", one_by_one), ("in a form", together)):
        for number, (image, answer) in enumerate(zip(golden, answers, strict=True)):
            recorded = max(image.probabilities)
            label = package.classes[image.probabilities.index(recorded)]
            difference = abs(float(answer["probability"]) - recorded)
            if answer["label"] != label or not difference <= TOLERANCE:
                raise AcceptanceError(
                    f"the candidate answers {answer['label']!r} ({answer['probability']:.4f}) for held-out image "
                    f"{number} (sent {way}), but {label!r} ({recorded:.4f}) was recorded in its evaluation"
                )
            largest = max(largest, difference)
    return largest


def _latency_p95(url: str, image: GoldenImage, expected: ExpectedServer) -> float:
    seconds = []
    for _ in range(_TIMED_REQUESTS):
        started = time.perf_counter()
        _predict(url, [image], expected)
        seconds.append(time.perf_counter() - started)
    return float(np.quantile(seconds, 0.95))


def _predict(
    url: str, images: Sequence[GoldenImage], expected: ExpectedServer, *, as_form: bool = False
) -> list[Mapping[str, Any]]:
    """The server's predictions for a single image as the request body, or for several as a form."""
    body, content_type = images[0].png, "image/png"
    if as_form:
        body, content_type = encode_multipart_formdata(
            {f"image{n}": (f"{n}.png", image.png, "image/png") for n, image in enumerate(images)}
        )
    request = request_to(f"{url.rstrip('/')}/predict", {"Content-Type": content_type})
    request.data = body
    try:
        with open_url(request, timeout=_REQUEST_TIMEOUT_SECONDS) as response:
            server = ExpectedServer(response.headers.get(VERSION_HEADER, ""), response.headers.get(IMAGE_HEADER, ""))
            content = response.read()
    except urllib.error.HTTPError as error:
        answer = f"it answers {error.code}, {_excerpt(error.read())}"
        if error.code in _TEMPORARY_STATUSES:
            raise _NotReadyError(answer) from None
        raise AcceptanceError(f"the candidate at {url} rejects a held-out image: {answer}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _NotReadyError(f"it does not answer ({getattr(error, 'reason', error)})") from None
    if server.version != expected.version or expected.image not in ("", server.image):
        raise _NotReadyError(f"it answers as {server}")
    try:
        predictions: list[Mapping[str, Any]] = json.loads(content)["predictions"]
    except (ValueError, KeyError, TypeError):
        raise AcceptanceError(f"the candidate at {url} answers without predictions: {_excerpt(content)}") from None
    return predictions


def _excerpt(content: bytes) -> str:
    return one_line(content.decode(errors="replace")) or "empty body"
