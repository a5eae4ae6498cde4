"""What every answer carries: who gave it, to which request, and what a browser may do with it."""

import re
import uuid
from typing import NamedTuple

from image_classifier.package import Identity, printable
from image_classifier.settings import Settings

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
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# https://www.w3.org/TR/trace-context/: version, trace id, parent id, flags.
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class RequestName(NamedTuple):
    """By what a request is found again in logs and traces."""

    id: str
    trace: str | None

    @classmethod
    def of(cls, given: str, trace: str) -> "RequestName":
        """From its X-Request-Id and traceparent headers, "" where there is none: else it gets an id of ours."""
        traced = _TRACE.fullmatch(trace)
        if given and _SANE_ID.fullmatch(given):
            return cls(given, traced and traced[0])
        return cls(traced[1], traced[0]) if traced else cls(uuid.uuid4().hex, None)


class AnswerHeaders:
    """The headers of a server's answers."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        same = {**SECURITY_HEADERS, **identity.headers()}
        if settings.image:
            same["X-Server-Image"] = printable(settings.image)
        self._same = list(same.items())

    def of(self, name: RequestName, method: str) -> list[tuple[str, str]]:
        """For the answer to one request."""
        # What is cached must be asked for again: another version may answer by then.
        caching = "no-cache" if method == "GET" else "no-store"
        headers = [*self._same, ("Cache-Control", caching), (REQUEST_ID, name.id)]
        if name.trace:
            headers.append((TRACE, name.trace))
        return headers
