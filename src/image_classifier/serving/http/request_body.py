"""The body of a request, decoded and bounded while it is read."""

import zlib
from collections.abc import Mapping, MutableMapping
from typing import IO, Any, NamedTuple, Protocol

from image_classifier.serving.http.admission import MemoryBudget
from image_classifier.serving.http.error_responses import (
    bad_request,
    too_large,
    too_many,
    too_slow,
    unsupported_encoding,
)

_CHUNK_BYTES = 2**16
_FORMATS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}  # by the names that Content-Encoding may have
_MAX_ENCODINGS = 3
_MAX_GZIP_MEMBERS = 2**10  # members without content are short, and each one costs a copy of the bytes after it
_GZIP_WINDOW, _ZLIB_WINDOW, _RAW_WINDOW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
# curl --data-binary sends the last of these unless another type is given.
_RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")


class Upload(NamedTuple):
    """An encoded image as received."""

    name: str | None  # file name of a form file; None for a raw body
    data: bytes


class Body(Protocol):
    """What can be read as a body."""

    def read(self, size: int = -1, /) -> bytes: ...


class DecodedBody:
    """A compressed body, decoded while it is read, in memory for a few chunks."""

    def __init__(self, stream: Body, encoding: str, max_upload: int, stated: int | None = None) -> None:
        """`encoding` is gzip or deflate; `stated` is the length of the compressed body if it is known."""
        self._stream, self._encoding, self._max_upload, self._stated = stream, encoding, max_upload, stated
        self._decoder: Any = None  # zlib's decompression object, from the first byte to the last
        self._input = b""  # received and not yet decoded
        self._received = self._members = 0

    def read(self, size: int = _CHUNK_BYTES) -> bytes:
        """At most `size` decoded bytes and at most 64 KiB; b"" at the end.

        Raises RequestError: 400 if the compressed bytes are damaged or incomplete, 413 for more than `max_upload` of
        them. The reader limits the decoded size.
        """
        while size:
            self._receive()
            if self._decoder is None and not self._start_decoder():
                return b""
            try:
                limit = _CHUNK_BYTES if size < 0 else min(size, _CHUNK_BYTES)
                content: bytes = self._decoder.decompress(self._input, limit)
            except zlib.error:
                raise self._damaged() from None
            if self._decoder.eof:
                self._input, self._decoder = self._decoder.unused_data, None
            elif not self._input and not content:
                raise bad_request(
                    "incomplete_body", f"the request body ended before the end of its {self._encoding} data"
                )
            else:
                self._input = self._decoder.unconsumed_tail
            if content:
                return content
        return b""

    def _receive(self) -> None:
        if self._input:
            return
        if self._stated is not None and self._stated > self._max_upload:
            raise too_large(self._stated, self._max_upload)
        self._input = self._stream.read(_CHUNK_BYTES)
        self._received += len(self._input)
        if self._received > self._max_upload:
            raise too_large(None, self._max_upload)

    def _start_decoder(self) -> bool:
        """Whether another gzip member or the only deflate stream begins."""
        if not self._input:
            return False
        if self._encoding == "gzip":
            window = _GZIP_WINDOW
            if self._members == _MAX_GZIP_MEMBERS:
                raise too_many("gzip members", _MAX_GZIP_MEMBERS)
        elif self._members:
            raise self._damaged()
        else:
            # HTTP's deflate is zlib's format, but many clients send the stream inside it alone. No compressor writes
            # raw data whose first byte is that of a zlib header.
            window = _ZLIB_WINDOW if self._input[0] & 0x0F == zlib.DEFLATED else _RAW_WINDOW
        self._members += 1
        self._decoder = zlib.decompressobj(window)
        return True

    def _damaged(self) -> Exception:
        return bad_request(
            "invalid_encoding",
            f"the request body cannot be decoded as {self._encoding}, which its header Content-Encoding names: it is "
            "damaged or not compressed",
        )


def decode_body(environ: MutableMapping[str, Any], max_upload: int) -> Body:
    """The body of a WSGI environment, decoded as its header Content-Encoding says; its length is unknown then.

    Reading it raises RequestError (415) for an encoding that is not supported.
    """
    stream: Body = environ["wsgi.input"]
    header = environ.get("HTTP_CONTENT_ENCODING", "")
    encodings = [name for text in header.split(",") if (name := text.strip().lower()) not in ("", "identity")]
    if not encodings:
        return stream
    length = environ.pop("CONTENT_LENGTH", None)
    environ["wsgi.input_terminated"] = True
    stated = int(length) if length else None
    if len(encodings) > _MAX_ENCODINGS or not _FORMATS.keys() >= set(encodings):
        return _UnsupportedBody(header)
    for encoding in reversed(encodings):
        stream, stated = DecodedBody(stream, _FORMATS[encoding], max_upload, stated), None
    return stream


class _UnsupportedBody:
    """A body that cannot be decoded; routes that read none are not affected."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding

    def read(self, size: int = -1) -> bytes:  # noqa: ARG002
        raise unsupported_encoding(self._encoding)


class MeteredBody:
    """A request body whose bytes count against the memory budget from their arrival until `release`."""

    def __init__(self, stream: Body, budget: MemoryBudget) -> None:
        self._stream, self._budget = stream, budget
        self._acquired = 0

    def read(self, size: int = -1) -> bytes:
        """Raises RequestError (503) if the budget is exhausted."""
        return self._count(self._stream.read(size))

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

    Raises RequestError: 413 for more than `max_upload` bytes, 408 for a slow client, 400 for an incomplete body; and as
    the stream of `decode_body`.
    """
    # Not with Werkzeug, which truncates a chunked body at the limit without an error.
    stated = int(environ["CONTENT_LENGTH"]) if environ.get("CONTENT_LENGTH") else None
    if stated is not None and stated > max_upload:
        raise too_large(stated, max_upload)
    stream: IO[bytes] = environ["wsgi.input"]
    body = bytearray()
    try:
        while len(body) != stated and (chunk := stream.read(min(_CHUNK_BYTES, max_upload + 1 - len(body)))):
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
