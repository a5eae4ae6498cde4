"""A real Backstage backend in a process of its own, and the web server that it reads the catalog files from."""

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

from image_classifier.steps.local_server import free_port

HERE = Path(__file__).parent
MOST_SECONDS = 60


@contextmanager
def files_served(folder: Path) -> Iterator[int]:
    """Serve a folder over HTTP, as a git host does its raw files; gives the port."""
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
        """A test reads what the portal says, not what was asked for."""


class Portal:
    """What a test asks a running portal."""

    def __init__(self, port: int, token: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._address, self._token, self._process, self.log = f"http://127.0.0.1:{port}", token, process, log

    def get(self, path: str) -> Any:
        request = urllib.request.Request(
            self._address + path, headers={"Authorization": f"Bearer {self._token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def entity(self, reference: str) -> Any:
        """The entity by its full name, e.g. api:default/image-classifier; None where there is none."""
        kind, name = reference.split(":")
        try:
            return self.get(f"/api/catalog/entities/by-name/{kind}/{name}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def stitched(self, reference: str, relations: int) -> Any:
        """The entity, as soon as it has so many relations; fails after a while."""
        return self._wait(
            f"{reference} with {relations} relations",
            lambda: (
                (found := self.entity(reference)) and len(found.get("relations", [])) >= relations and found
            ),
        )

    def failures(self) -> dict[str, str]:
        """What the catalog could not take or finish, by the entity's name, and why."""
        # Which was never taken is pending for ever; which is not taken any more has failed.
        found = [
            item
            for kind in ("pending", "failed")
            for item in self.get(f"/api/catalog/entities/unprocessed/{kind}")["entities"]
        ]
        given = [(item["unprocessed_entity"], item["errors"]) for item in found if item.get("errors")]
        return {
            f"{entity['kind'].lower()}:default/{entity['metadata']['name']}": json.dumps(errors)
            for entity, errors in given
        }

    def failure(self, reference: str) -> str:
        """Why the catalog does not take the entity; fails where it does take it."""
        return str(self._wait(f"a failure of {reference}", lambda: self.failures().get(reference)))

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            try:
                return bool(self.get("/.backstage/health/v1/readiness")["status"] == "ok")
            except (OSError, urllib.error.URLError):
                return False

        self._wait("the portal", ready)

    def _wait(self, what: str, look: Any) -> Any:
        deadline = time.monotonic() + MOST_SECONDS
        while not (found := look()):
            assert self._process.poll() is None, self._said()
            assert time.monotonic() < deadline, f"{what} did not come: {self._said()}"
            time.sleep(0.3)
        return found

    def _said(self) -> str:
        """The log, without the requests."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return "\n".join(line for line in lines if "incomingRequest" not in line)


@contextmanager
def portal(folder: Path, work: Path) -> Iterator[Portal]:
    """A portal that reads the catalog files of `folder`; its log goes to `work`."""
    port, token, log = free_port(), secrets.token_hex(16), work / "portal.log"
    with files_served(folder) as files, log.open("wb") as output:
        variables = {"PORTAL_PORT": str(port), "PORTAL_TOKEN": token, "FILES_PORT": str(files)}
        command = [shutil.which("node") or "node", HERE / "portal.mjs", "--config", HERE / "app-config.yaml"]
        process = subprocess.Popen(
            command, cwd=HERE, env={**os.environ, **variables}, stdout=output, stderr=output
        )
        try:
            running = Portal(port, token, process, log)
            running.wait_until_ready()
            yield running
        finally:
            process.terminate()
            process.wait(30)
