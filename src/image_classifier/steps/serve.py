"""The command `serve`, and a server in a subprocess that is tried with one request."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from image_classifier.errors import ImageClassifierError
from image_classifier.process import limit_blas_threads, permanent_imports
from image_classifier.settings import SETTINGS, Group, Settings, as_environment, pick
from image_classifier.text import Report

if TYPE_CHECKING:  # NumPy comes after `limit_blas_threads`
    from image_classifier.package import Package

START_SECONDS = 60.0  # for a server to become ready
_SETTINGS = tuple(name for name, setting in SETTINGS.items() if setting.group in (Group.SERVING, Group.DRIFT))


def serve(settings: Settings, report: Report) -> None:
    """Serve the champion, or the model that `model` names, until SIGTERM or SIGINT; ends with SystemExit."""
    limit_blas_threads()
    with permanent_imports():
        from image_classifier.serving import ServerOptions, serve_package
        from image_classifier.steps.model_access import fetch_model
    serve_package(pick(settings, ServerOptions), fetch_model(settings, report))


@contextmanager
def server_process(settings: Settings, package: "Package") -> Iterator["subprocess.Popen[bytes]"]:
    """A server of the package in a subprocess, which is stopped at the end of the block."""
    command = [sys.executable, "-m", "image_classifier.cli", "serve", "--model", str(package.folder)]
    environment = {**os.environ, **as_environment(settings, (*_SETTINGS, "max_pixels", "public_key"))}
    server = subprocess.Popen(command, env=environment)
    try:
        yield server
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGINT)  # after SIGTERM it would wait for a load balancer to notice
        server.wait(settings.drain_timeout + 10)


def request_golden_image(
    settings: Settings, package: "Package", server: "subprocess.Popen[bytes]", report: Report
) -> None:
    """Wait until the server is ready, and send it one image, as any client would."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # noqa: S104 (compared, not bound)
    address = f"http://{host}:{settings.port}"
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(address):
        if server.poll() is not None:
            raise ImageClassifierError(
                f"the server ended with status {server.returncode} before it was ready; see its messages above"
            )
        if time.monotonic() > deadline:
            raise ImageClassifierError(f"the server at {address} was not ready within {START_SECONDS:g} s")
        time.sleep(0.05)
    golden = package.golden[0]
    headers = {"Content-Type": "image/png"}
    if settings.token:
        headers["Authorization"] = f"Bearer {settings.token}"
    request = urllib.request.Request(f"{address}/predict", golden.png, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)["predictions"][0]
    report(
        f"sent an image of {golden.label!r} to {address}/predict; the answer is {answer['label']!r} "
        f"({100 * answer['probability']:.1f} %)"
    )


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:  # not listening yet, or 503: not ready
        return False
