"""The body of a request, bounded while it is read."""

from collections.abc import Mapping
from typing import IO, Any, NamedTuple

from image_classifier.serving.http.admission import MemoryBudget
from image_classifier.serving.http.error_responses import bad_request, too_large, too_slow

_CHUNK_BYTES = 2**16
# curl --data-binary sends the last of these unless another type is given.
_RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")


class Upload(NamedTuple):
    """An encoded image as received."""

    name: str | None  # file name of a form file; None for a raw body
    data: bytes


class MeteredBody:
    """A request body whose bytes count against the memory budget from their arrival until `release`."""

    def __init__(self, stream: IO[bytes], budget: MemoryBudget) -> None:
        self._stream, self._budget = stream, budget
        self._acquired = 0

    def read(self, size: int = -1) -> bytes:
        """Raises RequestError (503) if the budget is exhausted."""
        return self._count(self._stream.read(size))

    def readline(self, size: int = -1) -> bytes:
        return self._count(self._stream.readline(size))

    def release(self) -> None:
        """Return the bytes to the budget."""
        self._budget.release(self._acquired)
        self._acquired = 0

    def _count(self, content: bytes) -> bytes:
        self._budget.acquire(len(content))
        self._acquired += len(content)
        return content


def is_raw_image(content_type: str) -> bool:
    """Whether a body of that type, given without parameters, is read as the bytes of an image."""
    return content_type in _RAW_TYPES or content_type.startswith("image/")


def read_body(environ: Mapping[str, Any], max_upload: int) -> bytes:
    """Read a body from a WSGI environment.

    Raises RequestError: 413 for more than `max_upload` bytes, 408 for a slow client, 400 for an incomplete body.
    """
    # Not with Werkzeug, which truncates a chunked body at the limit without an error.
    stated = int(environ["CONTENT_LENGTH"]) if environ.get("CONTENT_LENGTH") else None
    if stated is not None and stated > max_upload:
        raise too_large(stated, max_upload)
    stream: IO[bytes] = environ["wsgi.input"]
    body = bytearray()
    try:
        while len(body) != stated and (chunk := stream.read(_CHUNK_BYTES)):
            body += chunk
            if len(body) > max_upload:
                raise too_large(None, max_upload)
    except TimeoutError:
        raise too_slow() from None
    except OSError as error:
        raise bad_request("incomplete_body", f"the request body is malformed: {error}") from None
    if stated is not None and len(body) < stated:
        raise bad_request("incomplete_body", f"the request body ended after {len(body):,} of {stated:,} bytes")
    return bytes(body)
