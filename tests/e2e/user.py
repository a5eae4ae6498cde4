"""What a user of the chain does: look at a workload until it settles, and ask what it serves."""

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

UNANIMOUS = 40
"""Of so many answers one is the old version's with 99 % chance, as long as it gets a tenth of the traffic."""


class UnroutedError(AssertionError):
    """The ingress knew no such name, host or cluster, and nothing behind it saw the request.

    The test platform's drops a revision before its route leads elsewhere, and where it loses the API server, it reads
    all of them anew and knows only some meanwhile.
    """


def image_of_a_digit() -> bytes:
    buffer = io.BytesIO()
    digit = load_digits().images[0] * (255 / 16)
    Image.fromarray(digit.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def ask(url: str, seconds: float = 60) -> str:
    """The version of the model that says what it sees; trained for seconds, it may be wrong."""
    request = urllib.request.Request(f"{url}/predict", image_of_a_digit(), {"Content-Type": "image/png"})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:
            assert json.load(response)["predictions"][0]["label"] in set("0123456789")
            return str(response.headers["X-Model-Version"])
    except urllib.error.HTTPError as error:
        body = error.read(300)
        # Envoy puts this header to what it passes on, and where there is a cluster it says in a body what is wrong.
        by_ingress = error.headers["X-Envoy-Upstream-Service-Time"] is None
        kind = UnroutedError if by_ingress and error.code in (404, 503) and not body else AssertionError
        teller = "the ingress" if by_ingress else "something behind the ingress"
        told = f"{url} answered {error.code} of {teller}: {body!r} at {time.strftime('%H:%M:%S')}"
        raise kind(told) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror):
            raise UnroutedError(f"{url} had no address at {time.strftime('%H:%M:%S')}") from error
        raise


def settled(cluster: Cluster, name: str, revision: str = "", seconds: float = 400) -> str:
    """Wait until a workload is ready (with that revision tested); what `get` prints then.

    Between a resource's end and the next one's begin a workload is ready for a moment, so it must stay so.
    """

    def look() -> bool:
        for _ in range(5):
            tested = cluster.outputs(name, "test").get("revision", "")
            if revision not in tested or not cluster.ready(name):
                return False
            time.sleep(1)
        return True

    wait(f"{name} ready", look, seconds)
    return cluster.show(name)


def answers(url: str, version: str, seconds: float = 120) -> None:
    """Wait until a version gives all answers: during a roll-out the old and the new one share them."""

    def look() -> bool:
        try:
            return all(ask(url) == version for _ in range(UNANIMOUS))
        except UnroutedError:
            return False

    wait(f"version {version}", look, seconds, every=0)


def unwell(cluster: Cluster, name: str, resource: str, said: str, seconds: float = 300) -> str:
    wait(f"{resource} says {said!r}", lambda: said in cluster.message(name, resource), seconds)
    return cluster.show(name)


class Load:
    """Requests, one after the other, for as long as the block lasts; knows which were lost.

    Those that the ingress did not route are counted apart.
    """

    def __init__(self, url: str) -> None:
        self.answered = 0
        self._unrouted = 0
        self.lost: list[str] = []
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def __str__(self) -> str:
        """What became of the requests."""
        apart = f", {self._unrouted} not routed by the ingress" if self._unrouted else ""
        return f"{self.answered} requests answered, {len(self.lost)} lost{apart}"

    def _ask(self) -> None:
        while not self._over.wait(0.05):
            try:
                ask(self._url)
                self.answered += 1
            except UnroutedError:
                self._unrouted += 1
            except Exception as error:
                self.lost.append(repr(error))
