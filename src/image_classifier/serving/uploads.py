"""The body of a request, bounded while it is read, and the images in it: the raw bytes, or the files of a form."""

from collections.abc import Mapping
from http import HTTPStatus
from io import BytesIO
from typing import IO, Any, NamedTuple

from flask import Request

from image_classifier.serving.admission import MemoryMeter
from image_classifier.serving.errors import RequestError, bad_request, too_large, too_slow

_CHUNK = 2**16
_LEAST_PART = 2**10
# curl says the last of these of any --data-binary unless it is told otherwise.
_RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")


class Upload(NamedTuple):
    """An image as it came; the name is a form file's."""

    name: str | None
    data: bytes


class ImageRequest(Request):
    """A request whose form files stay in memory, which `max_upload` bounds: nothing is written to disk."""

    def _get_file_stream(
        self,
        total_content_length: int | None,  # noqa: ARG002
        content_type: str | None,  # noqa: ARG002
        filename: str | None = None,  # noqa: ARG002
        content_length: int | None = None,  # noqa: ARG002
    ) -> IO[bytes]:
        return BytesIO()


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


def form_limits(max_upload: int) -> dict[str, int]:
    """Flask's settings that bound a form: all follow from the largest body."""
    return {
        "MAX_CONTENT_LENGTH": max_upload,
        "MAX_FORM_MEMORY_SIZE": max_upload,
        "MAX_FORM_PARTS": max(16, max_upload // _LEAST_PART),
    }


def read_uploads(request: Request, max_upload: int) -> list[Upload]:
    """The images of a request, at least one.

    Raises RequestError: 413 for more than `max_upload` bytes, counted while reading; 408 for a sender that
    is too slow; 415 for a body that is neither an image nor a form; 400 for one that holds no image.
    """
    kind = request.mimetype
    if kind == "multipart/form-data":
        return _form_files(request)
    if is_raw_image(kind):
        return [Upload(None, read_body(request.environ, max_upload))]
    raise RequestError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        f"a body of type {kind} is not accepted; send the bytes of an image, or a form of image files",
    )


def is_raw_image(content_type: str) -> bool:
    """Whether a body of that type, without parameters, is taken as the bytes of an image."""
    return content_type in _RAW_TYPES or content_type.startswith("image/")


def _form_files(request: Request) -> list[Upload]:
    files = [Upload(file.filename, file.read()) for file in request.files.values()]
    if not files:
        raise bad_request(
            "no_image",
            "the form holds no file; send at least one, as curl -F image=@photo.jpg does",
        )
    return files


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
