"""POST /predict with the bytes of one image, answered before Flask, which would take most of such a request's time.

A request that has arrived whole, and whose image is small, is answered before gunicorn reads it, too. The probes are
answered here as well, so that they need not wait until Flask is loaded. The answers are those of the routes in
prediction.py and operation.py; everything else passes through to gunicorn and Flask.
"""

import json
import re
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from time import perf_counter, time
from typing import Any, NamedTuple

from gunicorn.util import http_date

from image_classifier.images import stated_pixels
from image_classifier.serving.http import health
from image_classifier.serving.http.admission import Admission, MemoryMeter
from image_classifier.serving.http.error_responses import error_body, refusal_of, retry_headers
from image_classifier.serving.http.request_body import MeteredBody, Upload, is_raw_image, read_body
from image_classifier.serving.http.response_headers import REQUEST_ID, TRACE, AnswerHeaders, RequestName
from image_classifier.serving.inference import Predictions
from image_classifier.serving.observe.metrics import Metrics

PATH = "/predict"

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]

_QUICK_PIXELS = 2**20
"""An image of so many is decoded in a few milliseconds, whatever its format."""
# Narrower than the standard: what is written in any other way is left to gunicorn, to take or to refuse.
_FIELD = rb"([A-Za-z0-9-]{1,100}): ?([\x21-\x7e](?:[ \x21-\x7e]{0,1000}[\x21-\x7e])?)\r\n"
_FIELDS = re.compile(_FIELD)
_HEAD = re.compile(rb"POST " + re.escape(PATH.encode()) + rb" HTTP/1\.1\r\n((?:" + _FIELD + rb"){1,50})\r\n")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_UNUSUAL = ("transfer-encoding", "expect", "upgrade", "te", "trailer", "content-encoding", "authorization")


class Head(NamedTuple):
    """The header fields of a request, by their names in lower case, and the places of its body in its bytes."""

    fields: dict[str, str]
    start: int
    end: int


class WholeRequest(NamedTuple):
    """A request for one image, with its body."""

    fields: dict[str, str]
    """Its header fields, by their names in lower case."""
    image: bytes


class HotAnswer(NamedTuple):
    """What is sent, and what the log tells of it."""

    path: str
    status: HTTPStatus
    request_id: str
    content: bytes
    message: bytes
    """The whole HTTP message, with the content."""


class HotPath:
    """A WSGI application around another one."""

    def __init__(
        self,
        application: Application,
        *,
        predictions: Predictions,
        admission: Admission,
        headers: AnswerHeaders,
        metrics: Metrics,
        memory: MemoryMeter,
        max_upload: int,
        draining: threading.Event,
    ) -> None:
        self._application = application
        self._predictions, self._headers, self._metrics = predictions, headers, metrics
        self._memory, self._max_upload = memory, max_upload
        self._admission = admission
        self._dated = 0, ""
        """A second, and the text for it, which takes as long to write as a tenth of an answer."""
        self._probes: dict[str, Callable[[], dict[str, str]]] = {
            health.LIVE_PATH: health.live,
            health.READY_PATH: lambda: health.ready(draining),
        }

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        is_probe = method == "GET" and path in self._probes
        is_image = method == "POST" and path == PATH and is_raw_image(environ.get("CONTENT_TYPE", ""))
        if environ["QUERY_STRING"] or not (is_probe or is_image):
            return self._application(environ, start_response)
        name = RequestName.of(environ.get("HTTP_X_REQUEST_ID", ""), environ.get("HTTP_TRACEPARENT", ""))
        if is_probe:
            status, headers, content = self._answer(
                method, path, name, lambda: json.dumps(self._probes[path]()) + "\n"
            )
        else:
            body = environ["wsgi.input"] = MeteredBody(environ["wsgi.input"], self._memory)
            try:
                status, headers, content = self._predict(lambda: read_body(environ, self._max_upload), name)
            finally:
                body.release()
        start_response(f"{status.value} {status.phrase}", headers)
        return [content]

    def is_idle(self) -> bool:
        """Whether no request is at work: the next one has its turn without waiting."""
        return self._admission.inside == 0

    def whole_request(self, head: Head, data: bytes) -> WholeRequest | None:
        """The request that begins with that head, where the bytes are all of one for a small image."""
        if head.end != len(data):
            return None
        image = data[head.start :]
        pixels = stated_pixels(image)
        return None if pixels is None or pixels > _QUICK_PIXELS else WholeRequest(head.fields, image)

    def usual_head(self, data: bytes) -> Head | None:
        """The head that `data` begins with, if it asks about an image and nothing about it is unusual."""
        head = _HEAD.match(data)
        if head is None:
            return None
        given = _FIELDS.findall(head[1])
        fields = {name.decode().lower(): value.decode() for name, value in given}
        length = fields.get("content-length", "")
        if (
            len(fields) != len(given)
            or "host" not in fields
            or _NUMBER.fullmatch(length) is None
            or int(length) > self._max_upload
            or fields.get("connection", "keep-alive").lower() != "keep-alive"
            or not is_raw_image(fields.get("content-type", ""))
            or any(name in fields for name in _UNUSUAL)
        ):
            return None
        return Head(fields, head.end(), head.end() + int(length))

    def answer(self, request: WholeRequest) -> HotAnswer:
        """What is sent to a client that keeps its connection."""
        name = RequestName.of(request.fields.get(REQUEST_ID.lower(), ""), request.fields.get(TRACE, ""))
        status, headers, content = self._predict(lambda: request.image, name)
        lines = "".join(f"{field}: {value}\r\n" for field, value in headers)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: gunicorn\r\nDate: {self._date()}\r\n"
            f"Connection: keep-alive\r\n{lines}\r\n"
        )
        return HotAnswer(PATH, status, name.id, content, head.encode("latin-1") + content)

    def _date(self) -> str:
        second = int(time())
        if self._dated[0] != second:
            self._dated = second, http_date(second)
        return self._dated[1]

    def _predict(
        self, image: Callable[[], bytes], name: RequestName
    ) -> tuple[HTTPStatus, list[tuple[str, str]], bytes]:
        """Status, headers and content for the image that is given or read."""
        return self._answer(
            "POST", PATH, name, lambda: self._predictions.answer([Upload(None, image())], None, name.id)
        )

    def _answer(
        self, method: str, path: str, name: RequestName, text_of: Callable[[], str]
    ) -> tuple[HTTPStatus, list[tuple[str, str]], bytes]:
        """Status, headers and content of a JSON text, or of the error that comes in its place."""
        started = perf_counter()
        status, more = HTTPStatus.OK, []
        try:
            text = text_of()
        except Exception as error:
            refusal = refusal_of(error, f"{method} {path}", name.id)
            status, more = refusal.status, retry_headers(refusal.status)
            text = error_body(status, refusal.code, str(refusal))
        content = text.encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
            *self._headers.of(name, method),
            *more,
        ]
        self._metrics.request(path, status, perf_counter() - started)
        return status, headers, content
