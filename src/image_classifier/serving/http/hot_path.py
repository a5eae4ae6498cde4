"""The hot path: POST /predict with one raw image, answered before Flask, which would take most of the time.

The worker's event loop also uses it directly, before gunicorn parses a request, if the request has arrived completely
and its image is small. The probes are answered here as well, so that they need not wait until Flask is loaded.
Responses are those of the Flask routes; every other request passes through to Flask.
"""

import json
import re
import sys
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from time import perf_counter, time
from typing import Any, NamedTuple

from gunicorn.util import http_date

from image_classifier.images import header_pixel_count
from image_classifier.serving.http import health
from image_classifier.serving.http.error_responses import as_request_error, error_body, error_headers
from image_classifier.serving.http.request_body import MeteredBody, Upload, is_raw_image, read_body
from image_classifier.serving.http.response_headers import REQUEST_ID, TRACE, RequestIds
from image_classifier.serving.service import Service

PREDICT_PATH = "/predict"

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]

_SMALL_PIXELS = 2**20  # an image of this size is decoded in a few milliseconds, whatever its format
_SWITCH_SECONDS = 0.0005  # Python's default of 5 ms would delay concurrent requests several times over
# Stricter than the standard: any other notation is left to gunicorn, to accept or refuse.
_FIELD = rb"([A-Za-z0-9-]{1,100}): ?([\x21-\x7e](?:[ \x21-\x7e]{0,1000}[\x21-\x7e])?)\r\n"
_FIELDS = re.compile(_FIELD)
_HEAD = re.compile(rb"POST " + re.escape(PREDICT_PATH.encode()) + rb" HTTP/1\.1\r\n((?:" + _FIELD + rb"){1,50})\r\n")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_UNSUPPORTED = {"transfer-encoding", "expect", "upgrade", "te", "trailer", "content-encoding", "authorization"}


class RequestHead(NamedTuple):
    """The head of a request, and where its body lies in the received bytes."""

    fields: dict[str, str]  # header fields by lower-case name
    start: int
    end: int


class CompleteRequest(NamedTuple):
    """A request for one image that has arrived completely."""

    fields: dict[str, str]  # header fields by lower-case name
    image: bytes


class HotResponse(NamedTuple):
    """A response, and what the access log needs of it."""

    path: str
    status: HTTPStatus
    request_id: str
    content: bytes
    message: bytes  # the whole HTTP message, with the content


class HotPath:
    """WSGI middleware that answers the hot requests itself."""

    def __init__(self, application: Application, service: Service) -> None:
        self._application, self._service = application, service
        self._max_upload = service.options.max_upload
        self._cached_date = 0, ""  # a second and its text, as formatting it takes a tenth of the time of a response
        self._probes: dict[str, Callable[[], dict[str, str]]] = {
            health.LIVE_PATH: health.live,
            health.READY_PATH: lambda: health.ready(service.draining),
        }

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        is_probe = method == "GET" and path in self._probes
        is_image = method == "POST" and path == PREDICT_PATH and is_raw_image(environ.get("CONTENT_TYPE", ""))
        is_encoded = is_image and "HTTP_CONTENT_ENCODING" in environ
        if environ["QUERY_STRING"] or is_encoded or not (is_probe or is_image):
            return self._application(environ, start_response)
        ids = RequestIds.of(environ.get("HTTP_X_REQUEST_ID", ""), environ.get("HTTP_TRACEPARENT", ""))
        if is_probe:
            status, headers, content = self._json_response(
                method, path, ids, lambda: json.dumps(self._probes[path]()) + "\n"
            )
        else:
            body = environ["wsgi.input"] = MeteredBody(environ["wsgi.input"], self._service.memory)
            try:
                status, headers, content = self._prediction(lambda: read_body(environ, self._max_upload), ids)
            finally:
                body.release()
        start_response(f"{status.value} {status.phrase}", headers)
        return [content]

    def is_idle(self) -> bool:
        """Whether no request is in flight, so that the next one need not wait."""
        return self._service.admission.in_flight == 0

    def parse_head(self, data: bytes) -> RequestHead | None:
        """The head that `data` begins with; None unless it is a plain request for one image."""
        head = _HEAD.match(data)
        if head is None:
            return None
        received = _FIELDS.findall(head[1])
        fields = {name.decode().lower(): value.decode() for name, value in received}
        length = fields.get("content-length", "")
        if (
            len(fields) != len(received)
            or "host" not in fields
            or _NUMBER.fullmatch(length) is None
            or int(length) > self._max_upload
            or fields.get("connection", "keep-alive").lower() != "keep-alive"
            or not is_raw_image(fields.get("content-type", ""))
            or not _UNSUPPORTED.isdisjoint(fields)
        ):
            return None
        return RequestHead(fields, head.end(), head.end() + int(length))

    def complete_request(self, head: RequestHead, data: bytes) -> CompleteRequest | None:
        """The request with that head; None unless `data` is exactly this request and its image is small."""
        if head.end != len(data):
            return None
        image = data[head.start :]
        pixels = header_pixel_count(image)
        return None if pixels is None or pixels > _SMALL_PIXELS else CompleteRequest(head.fields, image)

    def respond(self, request: CompleteRequest) -> HotResponse:
        """The response to a client whose connection is kept alive."""
        ids = RequestIds.of(request.fields.get(REQUEST_ID.lower(), ""), request.fields.get(TRACE, ""))
        status, headers, content = self._prediction(lambda: request.image, ids)
        lines = "".join(f"{field}: {value}\r\n" for field, value in headers)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: gunicorn\r\nDate: {self._date()}\r\n"
            f"Connection: keep-alive\r\n{lines}\r\n"
        )
        message = head.encode("latin-1") + content
        return HotResponse(PREDICT_PATH, status, ids.request_id, content, message)

    def _date(self) -> str:
        second = int(time())
        if self._cached_date[0] != second:
            self._cached_date = second, http_date(second)
        return self._cached_date[1]

    def _prediction(
        self, read_image: Callable[[], bytes], ids: RequestIds
    ) -> tuple[HTTPStatus, list[tuple[str, str]], bytes]:
        predict = self._service.predict
        return self._json_response(
            "POST", PREDICT_PATH, ids, lambda: predict.respond([Upload(None, read_image())], None, ids.request_id)
        )

    def _json_response(
        self, method: str, path: str, ids: RequestIds, make_text: Callable[[], str]
    ) -> tuple[HTTPStatus, list[tuple[str, str]], bytes]:
        """Status, headers and content of the JSON that `make_text` returns, or of the error that it raises."""
        started = perf_counter()
        status, extra = HTTPStatus.OK, []
        try:
            text = make_text()
        except Exception as exception:
            error = as_request_error(exception, f"{method} {path}", ids.request_id)
            status, extra = error.status, error_headers(error.status, error.code)
            text = error_body(status, error.code, str(error))
        content = text.encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
            *self._service.headers.of(ids, method),
            *extra,
        ]
        self._service.metrics.request(path, status, perf_counter() - started)
        return status, headers, content


class BackgroundApplication:
    """A WSGI application that is loaded in a background thread; calls wait until it is loaded."""

    def __init__(self, load: Callable[[], Application]) -> None:
        """`load` starts at once and must not raise: if it fails, it has to end the process."""
        self._loaded = threading.Event()
        self._application: Application
        threading.Thread(target=self._run, args=(load,), name="load", daemon=True).start()

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        self._loaded.wait()
        return self._application(environ, start_response)

    def _run(self, load: Callable[[], Application]) -> None:
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            self._application = load()
        finally:
            sys.setswitchinterval(before)
        self._loaded.set()
