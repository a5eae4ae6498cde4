"""The command `serve`, and a server in a subprocess that is tried with one request."""

import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.message import Message
from typing import TYPE_CHECKING

from image_classifier.addresses import address_of, open_directly
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
    free_port(settings)  # before a model is downloaded
    serve_package(pick(settings, ServerOptions), fetch_model(settings, report))


def free_port(settings: Settings) -> int:
    """The port to listen on, any free one for port 0; raises SettingError if it is taken."""
    from image_classifier.serving import listen

    with listen(settings.host, settings.port) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class ServerProcess:
    """A server in a subprocess."""

    process: "subprocess.Popen[bytes]"
    instance: str
    """The text by which its answers differ from those of any other server: its header X-Server-Image."""


@contextmanager
def server_process(settings: Settings, package: "Package") -> Iterator[ServerProcess]:
    """A server of the package in a subprocess, which is stopped at the end of the block."""
    command = [sys.executable, "-m", "image_classifier.cli", "serve", "--model", str(package.folder)]
    settings = replace(settings, image=f"process-{secrets.token_hex(8)}")
    environment = {**os.environ, **as_environment(settings, (*_SETTINGS, "max_pixels", "public_key", "name", "image"))}
    process = subprocess.Popen(command, env=environment)
    try:
        yield ServerProcess(process, settings.image)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # after SIGTERM it would wait for a load balancer to notice
        process.wait(settings.drain_timeout + 10)


def request_golden_image(settings: Settings, package: "Package", server: ServerProcess, report: Report) -> None:
    """Wait until the server is ready, and send it one image, as any client would.

    Raises ImageClassifierError if it ends or is not ready in time, or if another program answers at its address.
    """
    address = address_of(settings.host, settings.port)
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(address, server.instance):
        if server.process.poll() is not None:
            raise ImageClassifierError(
                f"the server ended with status {server.process.returncode} before it was ready; see its messages above"
            )
        if time.monotonic() > deadline:
            raise ImageClassifierError(f"the server at {address} was not ready within {START_SECONDS:g} s")
        time.sleep(0.05)
    golden = package.golden[0]
    headers = {"Content-Type": "image/png"}
    if settings.token:
        headers["Authorization"] = f"Bearer {settings.token}"
    request = urllib.request.Request(f"{address}/predict", golden.png, headers)
    with open_directly(request, timeout=30) as response:
        _require_own(response.headers, address, server.instance)
        answer = json.load(response)["predictions"][0]
    report(
        f"sent an image of {golden.label!r} to {address}/predict; the answer is {answer['label']!r} "
        f"({100 * answer['probability']:.1f} %)"
    )


def _is_ready(address: str, instance: str) -> bool:
    try:
        with open_directly(f"{address}/readyz", timeout=5) as response:
            _require_own(response.headers, address, instance)
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:  # 503: not ready
        _require_own(error.headers, address, instance)
        return False
    except (OSError, http.client.HTTPException):  # not listening yet, or no HTTP
        return False


def _require_own(headers: Message, address: str, instance: str) -> None:
    if headers["X-Server-Image"] != instance:
        raise ImageClassifierError(
            f"another program answers at {address}, not the server that was started; stop it, or choose another --port"
        )
