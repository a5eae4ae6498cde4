"""A real Backstage backend as a separate process, and the web server from which it reads the catalog files."""

import functools
import http.server
import json
import os
import secrets
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ports import free_port

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 60


@contextmanager
def files_served(folder: Path) -> Iterator[int]:
    """Serve a folder over HTTP, like the raw files of a git host; yields the port."""
    handler = functools.partial(_Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class Portal:
    """Client of a running portal."""

    def __init__(self, port: int, token: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._address, self._token, self._process, self.log = f"http://127.0.0.1:{port}", token, process, log

    def get(self, path: str) -> Any:
        request = urllib.request.Request(self._address + path, headers={"Authorization": f"Bearer {self._token}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def entity(self, reference: str) -> Any:
        """The entity of a full name, e.g. api:default/image-classifier, or None."""
        kind, name = reference.split(":")
        try:
            return self.get(f"/api/catalog/entities/by-name/{kind}/{name}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def stitched(self, reference: str, relations: int) -> Any:
        """The entity, once it has this number of relations; fails after a timeout."""
        return self._wait(
            f"{reference} with {relations} relations",
            lambda: (entity := self.entity(reference)) and len(entity.get("relations", [])) >= relations and entity,
        )

    def failures(self) -> dict[str, str]:
        """Errors of the entities that the catalog refused or could not process, by full name."""
        # A refused entity stays pending; one that was accepted earlier has failed.
        unprocessed = [
            item
            for kind in ("pending", "failed")
            for item in self.get(f"/api/catalog/entities/unprocessed/{kind}")["entities"]
        ]
        errors = [(item["unprocessed_entity"], item["errors"]) for item in unprocessed if item.get("errors")]
        return {
            f"{entity['kind'].lower()}:default/{entity['metadata']['name']}": json.dumps(messages)
            for entity, messages in errors
        }

    def failure(self, reference: str) -> str:
        """The error of an entity, once the catalog has refused it; fails after a timeout."""
        return str(self._wait(f"a failure of {reference}", lambda: self.failures().get(reference)))

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            try:
                return bool(self.get("/.backstage/health/v1/readiness")["status"] == "ok")
            except (OSError, urllib.error.URLError):
                return False

        self._wait("the portal", ready)

    def _wait(self, what: str, poll: Any) -> Any:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (result := poll()):
            assert self._process.poll() is None, self._log_lines()
            assert time.monotonic() < deadline, f"timeout waiting for {what}: {self._log_lines()}"
            time.sleep(0.3)
        return result

    def _log_lines(self) -> str:
        """The log without requests."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return "\n".join(line for line in lines if "incomingRequest" not in line)


@contextmanager
def portal(folder: Path, work: Path) -> Iterator[Portal]:
    """Run a portal that reads the catalog files in `folder` and logs to `work`."""
    port, token, log = free_port(), secrets.token_hex(16), work / "portal.log"
    with files_served(folder) as files, log.open("wb") as output:
        variables = {"PORTAL_PORT": str(port), "PORTAL_TOKEN": token, "FILES_PORT": str(files)}
        command = [shutil.which("node") or "node", HERE / "portal.mjs", "--config", HERE / "app-config.yaml"]
        process = subprocess.Popen(command, cwd=HERE, env={**os.environ, **variables}, stdout=output, stderr=output)
        try:
            running = Portal(port, token, process, log)
            running.wait_until_ready()
            yield running
        finally:
            process.terminate()
            process.wait(30)
