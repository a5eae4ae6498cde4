"""A user of the supply chain: waits for workloads, and sends requests to their servers."""

import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from types import TracebackType

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tests.e2e.cluster import Cluster, wait

CONSECUTIVE_ANSWERS = 40
"""If the old version still gets a tenth of the traffic, one of these is its own with a probability of 99 %."""


class UnroutedError(AssertionError):
    """The ingress did not know the host name or its backend, so no server got the request.

    The test platform's ingress drops a revision before its route points to another one. When it loses the API server,
    it reads all routes again, and knows only some of them for a while.
    """


def digit_png() -> bytes:
    buffer = io.BytesIO()
    digit = load_digits().images[0] * (255 / 16)
    Image.fromarray(digit.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def predict(url: str, seconds: float = 60) -> str:
    """The model version that answers. Its prediction may be wrong, as it was trained for seconds."""
    request = urllib.request.Request(f"{url}/predict", digit_png(), {"Content-Type": "image/png"})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:
            assert json.load(response)["predictions"][0]["label"] in set("0123456789")
            return str(response.headers["X-Model-Version"])
    except urllib.error.HTTPError as error:
        body = error.read(300)
        # Envoy sets this header on responses that it forwards, and its own errors have a body if there is a backend.
        by_ingress = error.headers["X-Envoy-Upstream-Service-Time"] is None
        kind = UnroutedError if by_ingress and error.code in (404, 503) and not body else AssertionError
        origin = "the ingress" if by_ingress else "a server behind the ingress"
        message = f"{url} answered {error.code} (from {origin}): {body!r} at {time.strftime('%H:%M:%S')}"
        raise kind(message) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror):
            raise UnroutedError(f"the host of {url} had no address at {time.strftime('%H:%M:%S')}") from error
        raise


def wait_until_ready(cluster: Cluster, name: str, revision: str = "", seconds: float = 400) -> str:
    """Wait until a workload is ready, with this source revision if given; returns the output of `get`.

    It must stay ready for some seconds, as it is briefly ready between the end of a resource and the start of the next.
    """

    def look() -> bool:
        for _ in range(5):
            tested = cluster.outputs(name, "test").get("revision", "")
            if revision not in tested or not cluster.ready(name):
                return False
            time.sleep(1)
        return True

    try:
        wait(f"{name} ready", look, seconds)
    except AssertionError:
        print(cluster.show(name))
        raise
    return cluster.show(name)


def wait_for_version(url: str, version: str, seconds: float = 120) -> None:
    """Wait until all answers come from a version; during a roll-out two versions answer."""

    def look() -> bool:
        try:
            return all(predict(url) == version for _ in range(CONSECUTIVE_ANSWERS))
        except UnroutedError:
            return False

    wait(f"version {version}", look, seconds, every=0)


def wait_for_message(cluster: Cluster, name: str, resource: str, text: str, seconds: float = 300) -> str:
    """Wait until a resource is not ready and its message has a text; returns the output of `get`."""
    wait(f"{text!r} of {resource}", lambda: text in cluster.message(name, resource), seconds)
    return cluster.show(name)


class Load:
    """Sends requests, one after the other, during the block, and counts those that were answered and lost.

    Requests that the ingress did not route are counted separately.
    """

    def __init__(self, url: str) -> None:
        self.answered = 0
        self._unrouted = 0
        self.lost: list[str] = []
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __str__(self) -> str:
        unrouted = f", {self._unrouted} not routed by the ingress" if self._unrouted else ""
        return f"{self.answered} requests answered, {len(self.lost)} lost{unrouted}"

    def _send(self) -> None:
        while not self._stop.wait(0.05):
            try:
                predict(self._url)
                self.answered += 1
            except UnroutedError:
                self._unrouted += 1
            except Exception as error:
                self.lost.append(repr(error))
