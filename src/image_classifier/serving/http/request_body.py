"""The body of a request, bounded while it is read."""

from collections.abc import Mapping
from typing import IO, Any, NamedTuple

from image_classifier.serving.http.admission import MemoryMeter
from image_classifier.serving.http.error_responses import RequestError, bad_request, too_large, too_slow

_CHUNK = 2**16
# curl says the last of these of any --data-binary unless it is told otherwise.
_RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")


class Upload(NamedTuple):
    """An image as it came; the name is a form file's."""

    name: str | None
    data: bytes


class MeteredBody:
    """A request's body, whose bytes are counted as they come and given back at the request's end."""

    def __init__(self, stream: IO[bytes], meter: MemoryMeter) -> None:
        self._stream, self._meter = stream, meter
        self._taken = 0

    def read(self, size: int = -1) -> bytes:
        """Raises RequestError (503) where all bodies together would hold too much."""
        return self._count(self._stream.read(size))

    def readline(self, size: int = -1) -> bytes:
        return self._count(self._stream.readline(size))

    def release(self) -> None:
        self._meter.give_back(self._taken)
        self._taken = 0

    def _count(self, content: bytes) -> bytes:
        self._meter.take(len(content))
        self._taken += len(content)
        return content


def is_raw_image(content_type: str) -> bool:
    """Whether a body of that type, without parameters, is taken as the bytes of an image."""
    return content_type in _RAW_TYPES or content_type.startswith("image/")


def read_body(environ: Mapping[str, Any], max_upload: int) -> bytes:
    """The bytes of a body; raises RequestError as `read_uploads` does."""
    # By hand, for Werkzeug cuts a chunked body off at the limit without saying so.
    stated = int(environ["CONTENT_LENGTH"]) if environ.get("CONTENT_LENGTH") else None
    if stated is not None and stated > max_upload:
        raise too_large(stated, max_upload)
    stream: IO[bytes] = environ["wsgi.input"]
    body = bytearray()
    try:
        while len(body) != stated and (chunk := stream.read(_CHUNK)):
            body += chunk
            if len(body) > max_upload:
                raise too_large(None, max_upload)
    except TimeoutError:
        raise too_slow() from None
    except OSError as error:
        raise _incomplete(f"the request body is damaged: {error}") from None
    if stated is not None and len(body) < stated:
        raise _incomplete(f"the request body ended after {len(body):,} of {stated:,} bytes")
    return bytes(body)


def _incomplete(message: str) -> RequestError:
    return bad_request("incomplete_body", message)
