"""The address by which whoever asks reaches this server, behind the proxies of a platform."""

import re
from collections.abc import Mapping

UNKNOWN = "/"
"""In place of an address: relative to where the document lies, which OpenAPI allows."""

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def public_address(headers: Mapping[str, str], scheme: str) -> str:
    """Scheme and host of a request as its sender wrote them, e.g. https://photos.example.org; else "/".

    `scheme` is the one of the connection, which may end at a proxy: then X-Forwarded-Proto has the sender's. Knative's
    queue-proxy and its ingress pass on the Host; a proxy that writes its own puts the sender's into
    X-Forwarded-Host. Of several values, the first is the one nearest to the sender. Who forges these deceives nobody
    but themselves: the address goes into the answer to that request alone.
    """
    forwarded = _first(headers.get("X-Forwarded-Proto", "")).lower()
    host = _first(headers.get("X-Forwarded-Host", "")) or headers.get("Host", "")
    if not _HOST.fullmatch(host):
        return UNKNOWN
    return f"{forwarded if forwarded in ('http', 'https') else scheme}://{host}"


def _first(values: str) -> str:
    return values.split(",", 1)[0].strip()
