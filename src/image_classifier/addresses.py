"""Addresses that work as printed, requests that no proxy must see, and URLs without their secrets."""

import base64
import ipaddress
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (compared, not bound)


def address_of(host: str, port: int) -> str:
    """The address, without a slash at the end, at which this machine can open a server that listens on `host`."""
    host = _WILDCARDS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def open_url(request: urllib.request.Request | str, *, timeout: float) -> Any:
    """Like urllib's `urlopen`, but never through a proxy for this machine, whatever its address is called.

    NO_PROXY cannot say it for all libraries: urllib compares an IPv6 address with its brackets, and httpx cannot parse
    an entry with brackets.
    """
    url = request if isinstance(request, str) else request.full_url
    opener = open_directly if _is_loopback(urlsplit(url).hostname or "") else urllib.request.urlopen
    return opener(request, timeout=timeout)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_directly(request: urllib.request.Request | str, *, timeout: float) -> Any:
    """Like urllib's `urlopen`, but never through a proxy: for this machine's servers, and for pods."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout)


def request_to(url: str, headers: Mapping[str, str] | None = None) -> urllib.request.Request:
    """A request to a URL; user and password in it, which urllib takes for a host name, become a header."""
    parts = urlsplit(url)
    user, separator, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers=dict(headers or {}))
    if separator and not request.has_header("Authorization"):
        request.add_header("Authorization", basic_authorization(unquote(user)))
    return request


def basic_authorization(user_and_password: str) -> str:
    """The value of the header Authorization for "user:password"."""
    return f"Basic {base64.b64encode(user_and_password.encode()).decode()}"
