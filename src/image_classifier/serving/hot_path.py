"""POST /predict with the bytes of one image, answered before Flask, which would take most of such a request's time.

The answers are those of the route in prediction.py; everything else passes through to Flask.
"""

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from time import perf_counter
from typing import Any

from image_classifier.images import stated_pixels
from image_classifier.serving.admission import Admission, MemoryMeter
from image_classifier.serving.errors import error_body, refusal_of, retry_headers
from image_classifier.serving.headers import AnswerHeaders, RequestName
from image_classifier.serving.metrics import Metrics
from image_classifier.serving.prediction import PATH, Predictions
from image_classifier.serving.uploads import MeteredBody, Upload, is_raw_image, read_body

Environment = dict[str, Any]
_QUICK_PIXELS = 2**20
"""An image of so many is decoded in a few milliseconds, whatever its format."""
_WHOLE_REQUEST = re.compile(
    rb"POST /predict HTTP/1\.1\r\n(?:[^\r\n]+\r\n)*?Content-Length: *([0-9]{1,6})\r\n(?:[^\r\n]+\r\n)*\r\n",
    re.IGNORECASE,
)
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]


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
    ) -> None:
        self._application = application
        self._predictions, self._headers, self._metrics = predictions, headers, metrics
        self._memory, self._max_upload = memory, max_upload
        self._admission = admission

    def is_idle(self) -> bool:
        """Whether no request is at work: the next one has its turn without waiting."""
        return self._admission.inside == 0

    def is_quick(self, request: bytes) -> bool:
        """Whether the bytes are one whole request for a small image."""
        head = _WHOLE_REQUEST.match(request)
        if head is None or head.end() + int(head[1]) != len(request):
            return False
        pixels = stated_pixels(request[head.end() :])
        return pixels is not None and pixels <= _QUICK_PIXELS

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        if (
            environ["PATH_INFO"] != PATH
            or environ["REQUEST_METHOD"] != "POST"
            or environ["QUERY_STRING"]
            or not is_raw_image(environ.get("CONTENT_TYPE", ""))
        ):
            return self._application(environ, start_response)
        started = perf_counter()
        name = RequestName.of(environ.get("HTTP_X_REQUEST_ID", ""), environ.get("HTTP_TRACEPARENT", ""))
        body = environ["wsgi.input"] = MeteredBody(environ["wsgi.input"], self._memory)
        status, more = HTTPStatus.OK, []
        try:
            upload = Upload(None, read_body(environ, self._max_upload))
            text = self._predictions.answer([upload], None, name.id)
        except Exception as error:
            refusal = refusal_of(error, f"POST {PATH}", name.id)
            status, more = refusal.status, retry_headers(refusal.status)
            text = error_body(status, refusal.code, str(refusal))
        finally:
            body.release()
        content = text.encode()
        start_response(
            f"{status.value} {status.phrase}",
            [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(content))),
                *self._headers.of(name, "POST"),
                *more,
            ],
        )
        self._metrics.request(PATH, status, perf_counter() - started)
        return [content]
