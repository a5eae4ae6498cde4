"""A real server in a subprocess."""

import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

START_SECONDS = 60
REQUEST_SECONDS = 30


def large_png() -> bytes:
    """A white image that takes most of a second to decode."""
    buffer = io.BytesIO()
    Image.new("RGB", (6000, 6000), "white").save(buffer, "PNG")
    return buffer.getvalue()


class Response(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A running server, its log, and requests to it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    @property
    def address(self) -> str:
        return re.search(r"address=(http://\S+?)/?\s", self.log.read_text())[1]

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    @property
    def workers(self) -> list[int]:
        """Process IDs of the workers that have become ready."""
        return [int(process) for process in re.findall(r"process=(\d+) event=ready", self.log.read_text())]

    def wait_until_ready(self, workers: int = 1) -> None:
        deadline = time.monotonic() + START_SECONDS
        while len(self.workers) < workers:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def connect(self, timeout: float = REQUEST_SECONDS) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(
        self, method: str, path: str, body: Any = None, *, timeout: float = REQUEST_SECONDS, **headers: str
    ) -> Response:
        """Send a request on a new connection; raises TimeoutError."""
        connection = self.connect(timeout)
        try:
            chunked = not isinstance(body, bytes | type(None))
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named, encode_chunked=chunked)
            response = connection.getresponse()
            return Response(response.status, response.headers, response.read())
        finally:
            connection.close()

    def model_name(self) -> str:
        return self.request("GET", "/v1/models").json["models"][0]

    def stop(self, timeout: float = 30) -> int:
        """Stop it with SIGTERM; returns the exit status, raises TimeoutExpired."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def start(folder: Path, log: Path, *options: str) -> Server:
    """Start `image-classifier serve` on a free port, with its output in `log`."""
    command = [sys.executable, "-m", "image_classifier.cli", "serve", "--model", str(folder), "--port", "0"]
    with log.open("wb") as output:
        return Server(subprocess.Popen([*command, *options], stdout=output, stderr=output), log)


@contextmanager
def running(folder: Path, log: Path, *options: str, workers: int = 1) -> Iterator[Server]:
    """A server that is ready, killed at the end of the block if it still runs."""
    server = start(folder, log, "--workers", str(workers), *options)
    try:
        server.wait_until_ready(workers)
        yield server
    finally:
        if server.process.poll() is None:
            # Its workers notice that the parent has gone, and end.
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
