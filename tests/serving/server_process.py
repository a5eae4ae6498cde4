"""A real server in a process of its own."""

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


def large_png() -> bytes:
    """A white image that takes the better part of a second to decode."""
    buffer = io.BytesIO()
    Image.new("RGB", (6000, 6000), "white").save(buffer, "PNG")
    return buffer.getvalue()


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """What a test needs of a running server."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    @property
    def address(self) -> str:
        return re.search(r"address=(http://\S+?)/?\s", self.log.read_text())[1]

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def wait_until_ready(self, workers: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.log.read_text().count("event=ready") < workers:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = self.connect()
        try:
            chunked = not isinstance(body, bytes | type(None))
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def start(folder: Path, log: Path, *options: str) -> Server:
    """Start the command a user starts, on a free port; its output goes to `log`."""
    command = [sys.executable, "-m", "image_classifier.cli", "serve", "--model", str(folder), "--port", "0"]
    with log.open("wb") as output:
        return Server(subprocess.Popen([*command, *options], stdout=output, stderr=output), log)


@contextmanager
def running(folder: Path, log: Path, *options: str, workers: int = 1) -> Iterator[Server]:
    server = start(folder, log, "--workers", str(workers), *options)
    try:
        server.wait_until_ready(workers)
        yield server
    finally:
        if server.process.poll() is None:
            # Its workers see that it is gone, and end.
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
