"""The images of a request: a raw body, or the files of a form."""

from http import HTTPStatus
from io import BytesIO
from typing import IO, Any

from flask import Request

from image_classifier.serving.http.error_responses import RequestError, bad_request, too_many
from image_classifier.serving.http.request_body import Upload, is_raw_image, read_body

_BYTES_PER_PART = 2**10  # the maximum number of form parts is the size limit divided by this
_MAX_LINES = 2**18
"""Maximum lines of a form. Lines are headers of its parts, which take 30 times their size in memory; an image has few
line breaks by chance."""


class ImageRequest(Request):
    """A Flask request that keeps form files in memory, bounded by `max_upload`, and writes nothing to disk."""

    def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
        return BytesIO()


class _LineLimit:
    """A form's body with a limit on its lines, checked as they arrive."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._lines = stream, 0

    def read(self, size: int = -1) -> bytes:
        """Raises RequestError (413) for too many lines."""
        content = self._stream.read(size)
        self._lines += content.count(b"\r\n")
        if self._lines > _MAX_LINES:
            raise too_many("lines", _MAX_LINES)
        return content


def form_limits(max_upload: int) -> dict[str, int]:
    """Flask's settings that bound a form, derived from the maximum size of a body."""
    return {
        "MAX_CONTENT_LENGTH": max_upload,
        "MAX_FORM_MEMORY_SIZE": max_upload,
        "MAX_FORM_PARTS": max(16, max_upload // _BYTES_PER_PART),
    }


def read_uploads(request: Request, max_upload: int) -> list[Upload]:
    """Read the images of a request, at least one.

    Raises RequestError: as `read_body`; 415 for a body that is neither an image nor a form; 400 for a form without a
    file.
    """
    content_type = request.mimetype
    if content_type == "multipart/form-data":
        return _form_files(request)
    if is_raw_image(content_type):
        return [Upload(None, read_body(request.environ, max_upload))]
    raise RequestError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        f"unsupported content type {content_type}; send the bytes of an image, or a form of image files",
    )


def _form_files(request: Request) -> list[Upload]:
    request.environ["wsgi.input"] = _LineLimit(request.environ["wsgi.input"])
    files = [Upload(file.filename, file.read()) for file in request.files.values()]
    if not files:
        raise bad_request("no_image", "the form contains no file; send at least one, e.g. curl -F image=@photo.jpg")
    return files
