"""Try a candidate at its real address before anything is served: it must answer as was evaluated."""

import base64
import http.client
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from image_classifier.errors import AcceptanceError
from image_classifier.package import GoldenImage, Images, Package, Probabilities, encode_png
from image_classifier.patience import Found, patiently

VERSION_HEADER = "X-Model-Version"
IMAGE_HEADER = "X-Server-Image"
TOLERANCE = 1e-3
"""Answers are rounded on their way; a wrong model or another preprocessing differs by far more."""
_TIMED_REQUESTS = 30
_UNANIMOUS = 40
_PAUSE_SECONDS = 0.5
_REQUEST_SECONDS = 30.0
# A name or route that is not there yet, and a pod that is not awake yet.
_PATIENT_WITH = (404, 408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Expected:
    """What the candidate must be: the model's version and the image that serves it ("": any)."""

    version: str
    image: str

    def __str__(self) -> str:
        return f"version {self.version}" + (f" in {self.image}" if self.image else "")


@dataclass(frozen=True)
class Trial:
    """What was found of an accepted candidate."""

    images: int
    largest_difference: float
    latency_p95: float
    """Seconds for one image, by the whole way."""
    waited: float
    """Seconds until it first answered as the one that was expected."""


def held_out_images(
    images: Images, labels: Sequence[str], probabilities: Probabilities, most: int = 16
) -> tuple[GoldenImage, ...]:
    """Some of the test images uint8 [N, S, S, 3], evenly spread, and what was answered to them [N, K]."""
    chosen = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).astype(int))
    return tuple(
        GoldenImage(encode_png(images[index]), labels[index], tuple(map(float, probabilities[index])))
        for index in chosen
    )


def images_to_json(images: Sequence[GoldenImage]) -> str:
    return json.dumps(
        [
            {
                "png": base64.b64encode(image.png).decode(),
                "label": image.label,
                "probabilities": image.probabilities,
            }
            for image in images
        ]
    )


def images_from_json(content: bytes) -> tuple[GoldenImage, ...]:
    return tuple(
        GoldenImage(base64.b64decode(item["png"]), item["label"], tuple(item["probabilities"]))
        for item in json.loads(content)
    )


class _NotYetError(Exception):
    """The address answers, or not, but not yet as the candidate."""


def try_candidate(
    url: str,
    package: Package,
    expected: Expected,
    *,
    max_latency: float,
    timeout: float,
    report: Callable[[str], None],
) -> Trial:
    """Wait until `url` answers as the expected candidate, then compare its answers and time them.

    Raises AcceptanceError, with the last thing seen, where it does not within `timeout` seconds, where an
    answer differs from the recorded one, or where the 95th percentile is above `max_latency` seconds.
    """
    golden = package.golden
    started = time.monotonic()

    def tried() -> tuple[float, float, float]:
        _predict(url, [golden[0]], expected, raw=True)
        waited = time.monotonic() - started
        report(f"{url} answers as {expected} after {waited:.1f} s")
        return waited, _compare(url, package, expected), _time(url, golden[0], expected)

    complaint = f"the candidate at {url} did not answer as {expected}"
    waited, difference, p95 = _once_expected(tried, timeout, complaint)
    if p95 > max_latency:
        raise AcceptanceError(
            f"the candidate takes {p95 * 1e3:.0f} ms for an image (95th percentile of {_TIMED_REQUESTS} "
            f"requests), but max_latency is {max_latency * 1e3:.0f} ms"
        )
    return Trial(len(golden), difference, p95, waited)


def wait_for_all_answers(url: str, expected: Expected, *, timeout: float) -> None:
    """Wait until `url` gives so many answers in a row as expected that none can come from another.

    While traffic moves, the old and the new answer in turn: one that still gets a tenth of it would be met with 99 %
    chance. Raises AcceptanceError, with the last thing seen, after `timeout` seconds.
    """
    black = GoldenImage(encode_png(np.zeros((8, 8, 3), dtype=np.uint8)), "", ())

    def all_agree() -> None:
        for _ in range(_UNANIMOUS):
            _predict(url, [black], expected, raw=True)

    _once_expected(all_agree, timeout, f"{url} did not answer as {expected} alone")


def _once_expected(ask: Callable[[], Found], timeout: float, complaint: str) -> Found:
    """What `ask` gives when the expected one answers; AcceptanceError, with the last thing seen, after `timeout` s."""
    try:
        return patiently(ask, _NotYetError, wait=timeout, pause=_PAUSE_SECONDS)
    except _NotYetError as error:
        raise AcceptanceError(f"{complaint} within {timeout:g} s: {error}") from None


def _compare(url: str, package: Package, expected: Expected) -> float:
    """The largest difference between an answer, by each way in, and what was recorded."""
    golden = package.golden
    answers = [_predict(url, [item], expected, raw=True)[0] for item in golden]
    together = _predict(url, golden, expected, raw=False)
    largest = 0.0
    for way, given in (("alone", answers), ("in a form", together)):
        for number, (item, answer) in enumerate(zip(golden, given, strict=True)):
            recorded = max(item.probabilities)
            label = package.classes[item.probabilities.index(recorded)]
            difference = abs(float(answer["probability"]) - recorded)
            if answer["label"] != label or not difference <= TOLERANCE:
                raise AcceptanceError(
                    f"the candidate answers {answer['label']!r} with {answer['probability']:.4f} to held-out "
                    f"image {number} (sent {way}), but {label!r} with {recorded:.4f} was recorded"
                )
            largest = max(largest, difference)
    return largest


def _time(url: str, item: GoldenImage, expected: Expected) -> float:
    seconds = []
    for _ in range(_TIMED_REQUESTS):
        started = time.perf_counter()
        _predict(url, [item], expected, raw=True)
        seconds.append(time.perf_counter() - started)
    return float(np.quantile(seconds, 0.95))


def _predict(
    url: str, items: Sequence[GoldenImage], expected: Expected, *, raw: bool
) -> list[Mapping[str, Any]]:
    """Ask for the items: one as the raw body, or any number as files of a form."""
    if raw:
        body, content_type = items[0].png, "image/png"
    else:
        body, content_type = _form([item.png for item in items])
    request = urllib.request.Request(f"{url.rstrip('/')}/predict", body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as response:
            seen = Expected(response.headers.get(VERSION_HEADER, ""), response.headers.get(IMAGE_HEADER, ""))
            content = response.read()
    except urllib.error.HTTPError as error:
        text = f"it answers {error.code}, {_first_line(error.read())}"
        if error.code in _PATIENT_WITH:
            raise _NotYetError(text) from None
        raise AcceptanceError(f"the candidate at {url} refuses a held-out image: {text}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _NotYetError(f"it does not answer ({getattr(error, 'reason', error)})") from None
    if seen.version != expected.version or expected.image not in ("", seen.image):
        raise _NotYetError(f"it answers as {seen}")
    try:
        predictions: list[Mapping[str, Any]] = json.loads(content)["predictions"]
    except (ValueError, KeyError, TypeError):
        raise AcceptanceError(f"the candidate's answer has no predictions: {_first_line(content)}") from None
    return predictions


def _form(images: Sequence[bytes]) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="image{number}"; filename="{number}.png"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + image
        + b"\r\n"
        for number, image in enumerate(images)
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _first_line(content: bytes) -> str:
    return " ".join(content.decode(errors="replace").split())[:200] or "nothing"
