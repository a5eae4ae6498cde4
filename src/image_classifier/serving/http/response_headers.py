"""Headers of every response: model identity, request ID, trace, caching and browser security."""

import re
import uuid
from typing import NamedTuple

from image_classifier.package import ModelIdentity

REQUEST_ID = "X-Request-Id"
TRACE = "traceparent"
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_VALID_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# https://www.w3.org/TR/trace-context/: version, trace id, parent id, flags.
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class RequestIds(NamedTuple):
    """The IDs by which a request is found in logs and traces."""

    request_id: str
    trace: str | None  # a valid traceparent header, which the response repeats

    @classmethod
    def of(cls, request_id: str, trace: str) -> "RequestIds":
        """From the headers X-Request-Id and traceparent, "" if absent.

        Without a valid X-Request-Id the ID is the trace's, and without a trace a new one.
        """
        match = _TRACE.fullmatch(trace)
        if request_id and _VALID_ID.fullmatch(request_id):
            return cls(request_id, match and match[0])
        return cls(match[1], match[0]) if match else cls(uuid.uuid4().hex, None)


class ResponseHeaders:
    """The headers of a server's responses."""

    def __init__(self, image: str, identity: ModelIdentity) -> None:
        """`image` is the server image with its digest, "" if unknown."""
        common = {**SECURITY_HEADERS, **model_headers(identity)}
        if image:
            common["X-Server-Image"] = _printable(image)
        self._common = list(common.items())

    def of(self, ids: RequestIds, method: str) -> list[tuple[str, str]]:
        """For the response to one request."""
        # A cached page must be revalidated: another version may be live by then.
        caching = "no-cache" if method == "GET" else "no-store"
        headers = [*self._common, ("Cache-Control", caching), (REQUEST_ID, ids.request_id)]
        if ids.trace:
            headers.append((TRACE, ids.trace))
        return headers


def model_headers(identity: ModelIdentity) -> dict[str, str]:
    """The identity of the model as HTTP headers, in printable ASCII."""
    values = {
        "X-Model-Name": identity.name,
        "X-Model-Version": identity.version,
        "X-Model-Digest": identity.digest,
        "X-Source-Revision": identity.source_revision,
        "X-Data-Digest": identity.data_digest,
    }
    return {header: _printable(value) for header, value in values.items() if value}


def _printable(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text)
