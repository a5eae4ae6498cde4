"""Every refusal and failure has one shape: {"error": "why, in words", "code": "invalid_image", "status": 400}.

The Open Inference Protocol asks for the member `error`, a text; the others are for programs.
"""

import json
import logging
from http import HTTPStatus

from image_classifier.errors import ImageError, ImageTooLargeError

RETRY_SECONDS = 1

_log = logging.getLogger(__name__)


class RequestError(Exception):
    """A request that cannot be answered; `code` is for programs, the text for people."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def error_body(status: int, code: str, message: str) -> str:
    """The JSON text of an error."""
    return json.dumps({"error": message, "code": code, "status": status}) + "\n"


def retry_headers(status: int) -> list[tuple[str, str]]:
    """Headers that tell when to ask again, where that helps."""
    return [("Retry-After", str(RETRY_SECONDS))] if status == HTTPStatus.SERVICE_UNAVAILABLE else []


def error_code(status: int) -> str:
    """The code of a status that has none of its own: 404 is not_found."""
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")


def too_large(size: int | None, limit: int) -> RequestError:
    """`size` is None where the client did not say how much it was going to send."""
    sent = "is" if size is None else f"has {size:,} bytes,"
    return RequestError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "body_too_large",
        f"the request {sent} larger than the limit of {limit:,} bytes; send fewer or smaller images",
    )


def too_many(what: str, limit: int) -> RequestError:
    """A request that is not long and would take too much memory or time all the same."""
    return RequestError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "body_too_large",
        f"the request has more {what} than the limit of {limit:,}; send fewer or smaller images at a time",
    )


def bad_request(code: str, message: str) -> RequestError:
    return RequestError(HTTPStatus.BAD_REQUEST, code, message)


def invalid_request(message: str) -> RequestError:
    """A body of one of the JSON protocols that is not as the protocol has it."""
    return bad_request("invalid_request", message)


def not_found(message: str) -> RequestError:
    return RequestError(HTTPStatus.NOT_FOUND, "not_found", message)


def unavailable(code: str, message: str) -> RequestError:
    """The client may try again; the answer says when."""
    return RequestError(HTTPStatus.SERVICE_UNAVAILABLE, code, message)


def too_slow() -> RequestError:
    return RequestError(
        HTTPStatus.REQUEST_TIMEOUT, "request_too_slow", "the request body came too slowly; send it again"
    )


def refusal_of(error: Exception, asked: str, request_id: str) -> RequestError:
    """What a client is told of an error; one that is no fault of the client's is logged."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ImageTooLargeError):
        return RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "image_too_large", str(error))
    if isinstance(error, ImageError):
        return bad_request("invalid_image", str(error))
    _log.error("request %s failed: %s", request_id, asked, exc_info=error)
    return RequestError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal_error",
        f"the server failed; its log tells why under request id {request_id}",
    )
