"""A server on this machine, asked as any client would ask it."""

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable

from image_classifier.errors import ImageClassifierError
from image_classifier.package import Package
from image_classifier.settings import Settings

START_SECONDS = 60


def free_port() -> int:
    """A port of this machine that nobody listens on, for now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(
    settings: Settings, package: Package, server: subprocess.Popen[bytes], report: Callable[[str], None]
) -> None:
    """Wait until the server process is ready, and ask it for one image as any client would."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # noqa: S104 (compared, not bound)
    address = f"http://{host}:{settings.port}"
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(address):
        if server.poll() is not None:
            raise ImageClassifierError(
                f"the server ended with status {server.returncode} before it was ready"
            )
        if time.monotonic() > deadline:
            raise ImageClassifierError(f"the server at {address} was not ready within {START_SECONDS} s")
        time.sleep(0.05)
    golden = package.golden[0]
    headers = {"Content-Type": "image/png"} | (
        {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
    )
    request = urllib.request.Request(f"{address}/predict", golden.png, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)["predictions"][0]
    report(
        f"asked {address}/predict for an image of {golden.label!r}: it answers {answer['label']!r} "
        f"({answer['probability']:.1%})"
    )


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:  # not listening yet, or 503: not ready
        return False
