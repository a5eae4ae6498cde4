"""The images of a request: the raw bytes, or the files of a form."""

from http import HTTPStatus
from io import BytesIO
from typing import IO

from flask import Request

from image_classifier.serving.http.error_responses import RequestError, bad_request, too_many
from image_classifier.serving.http.request_body import Upload, is_raw_image, read_body

_LEAST_PART = 2**10
_MOST_LINES = 2**18
"""The lines of a form are the headers of its parts, which take 30 times their memory; an image has few by chance."""


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


class _CountedLines:
    """A form's body, whose lines are counted as they come."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._lines = stream, 0

    def read(self, size: int = -1) -> bytes:
        """Raises RequestError (413) for too many."""
        content = self._stream.read(size)
        self._lines += content.count(b"\r\n")
        if self._lines > _MOST_LINES:
            raise too_many("lines", _MOST_LINES)
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


def _form_files(request: Request) -> list[Upload]:
    request.environ["wsgi.input"] = _CountedLines(request.environ["wsgi.input"])
    files = [Upload(file.filename, file.read()) for file in request.files.values()]
    if not files:
        raise bad_request(
            "no_image",
            "the form holds no file; send at least one, as curl -F image=@photo.jpg does",
        )
    return files
