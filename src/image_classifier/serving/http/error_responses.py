"""Error responses: every error is JSON of one shape, {"error": "why", "code": "invalid_image", "status": 400}.

The Open Inference Protocol requires `error`, a text for people; `code` is for programs.
"""

import json
import logging
from http import HTTPStatus

from image_classifier.errors import ImageError, ImageTooLargeError

RETRY_SECONDS = 1
ACCEPTED_ENCODINGS = ("gzip", "deflate")  # of request bodies, besides identity
_UNSUPPORTED_ENCODING = "unsupported_encoding"

_log = logging.getLogger(__name__)


class RequestError(Exception):
    """A request that cannot be answered; the text is for people, `code` for programs."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def error_body(status: int, code: str, message: str) -> str:
    """The JSON text of an error."""
    return json.dumps({"error": message, "code": code, "status": status}) + "\n"


def error_headers(status: int, code: str) -> list[tuple[str, str]]:
    """Retry-After for an error after which a client should retry; Accept-Encoding for an unsupported encoding."""
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return [("Retry-After", str(RETRY_SECONDS))]
    return [("Accept-Encoding", ", ".join(ACCEPTED_ENCODINGS))] if code == _UNSUPPORTED_ENCODING else []


def error_code(status: int) -> str:
    """The default code of a status: `not_found` for 404."""
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")


def too_large(size: int | None, limit: int) -> RequestError:
    """413 for a body of `size` bytes, None if the client did not state the length."""
    body = "the request body" if size is None else f"the request body of {size:,} bytes"
    return _body_too_large(f"{body} exceeds the limit of {limit:,} bytes; send fewer or smaller images")


def too_many(what: str, limit: int) -> RequestError:
    """413 for a request that is short but would take too much memory or time."""
    return _body_too_large(f"the request has more than {limit:,} {what}; send fewer or smaller images per request")


def _body_too_large(message: str) -> RequestError:
    return RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", message)


def bad_request(code: str, message: str) -> RequestError:
    return RequestError(HTTPStatus.BAD_REQUEST, code, message)


def invalid_request(message: str) -> RequestError:
    """400 for a body that violates its JSON protocol."""
    return bad_request("invalid_request", message)


def not_found(message: str) -> RequestError:
    return RequestError(HTTPStatus.NOT_FOUND, "not_found", message)


def unsupported_encoding(encoding: str) -> RequestError:
    """415 for a body in the content encoding that a client's header names."""
    return RequestError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        _UNSUPPORTED_ENCODING,
        f"the content encoding {encoding!r} is not supported; send the body uncompressed, or with one of "
        f"{', '.join(ACCEPTED_ENCODINGS)}",
    )


def unavailable(code: str, message: str) -> RequestError:
    """503 with Retry-After: the client may try again."""
    return RequestError(HTTPStatus.SERVICE_UNAVAILABLE, code, message)


def too_slow() -> RequestError:
    return RequestError(
        HTTPStatus.REQUEST_TIMEOUT, "request_too_slow", "the request body arrived too slowly; send it again"
    )


def as_request_error(error: Exception, request: str, request_id: str) -> RequestError:
    """The error that a client gets; logs one that is not the client's fault, with `request` ("POST /predict")."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ImageTooLargeError):
        return RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "image_too_large", str(error))
    if isinstance(error, ImageError):
        return bad_request("invalid_image", str(error))
    _log.error("request %s failed: %s", request_id, request, exc_info=error)
    return RequestError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal_error",
        f"internal server error; the server's log has the reason under request ID {request_id}",
    )
