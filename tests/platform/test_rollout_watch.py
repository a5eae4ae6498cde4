"""How a watch ends, with servers whose answers are made up, a recorded cluster and a real sqlite registry.

That real servers, routed to by Knative, are watched so is shown by tests/e2e/test_watch.py.
"""

import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from image_classifier.errors import ForbiddenError
from image_classifier.package.identity import Identity
from image_classifier.platform import rollout_watch as module
from image_classifier.platform.rollout_watch import watch
from image_classifier.serving.observe.metrics import Metrics
from image_classifier.settings import Seconds, Settings
from image_classifier.steps import chain_tmp as chain
from tests.platform.recorded_cluster import Records
from tests.platform.test_pod_metrics import a_pod
from tests.platform.test_workload_rollback import a_workload, accept_run
from tests.registry.mlflow_helpers import registry_at


class MadeUpServer(ThreadingHTTPServer):
    """Gives the /metrics of a server that answers some requests whenever it is looked at."""

    def __init__(self, version, requests=30, errors=0.0, seconds=0.002, answered=None):
        self.metrics = Metrics(Identity("flowers", str(version), "", "", ""))
        super().__init__(("127.0.0.1", 0), self._handler(requests, errors, seconds, answered))

    def _handler(self, requests, errors, seconds, answered):
        chance, metrics = random.Random(0), self.metrics

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                for _ in range(requests):
                    metrics.request("/predict", 500 if chance.random() < errors else 200, seconds)
                    metrics.inferred(seconds, 1, answered or chance.choice("abcdef"))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(metrics.text())

            def log_message(self, *_):
                pass

        return Handler


@contextmanager
def serving(*servers: MadeUpServer) -> Iterator[list[int]]:
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield [server.server_port for server in servers]
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture
def records(registry):
    return Records(
        [a_workload(name=registry.name), accept_run(1, "server@a", 0), accept_run(2, "server@b", 1)]
    )


@pytest.fixture
def cluster(cluster, monkeypatch):
    """It is looked at often."""
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(module, "_ASK_SECONDS", 0.1)
    monkeypatch.setattr(module, "_MOVED_SECONDS", 0.2)
    return cluster


def watched(registry, cluster, records, *servers, seconds=3.0):
    with serving(*servers) as ports:
        for number, port in enumerate(ports):
            records.objects.append(a_pod(f"pod-{number}", port, "server@a" if number == 0 else "server@b"))
        return watch(registry, cluster, "flowers", (2, "server@b"), seconds=seconds, report=lambda _: None)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"errors": 0.05}, r"of its answers are errors \(\d+ of \d+\), of version 1 0\.0%"),
        ({"seconds": 0.006}, r"its answers take 6\.0 ms in the mean, those of version 1 2\.0 ms"),
        ({"answered": "a"}, r"it answers 'a' to 100% of the requests, version 1 to"),
    ],
    ids=["errors", "slow", "one class"],
)
def test_a_bad_revision_is_called_so_before_the_time_is_over(registry, cluster, records, bad, said):
    seen = watched(registry, cluster, records, MadeUpServer(1), MadeUpServer(2, **bad), seconds=30)
    assert seen.worse
    assert seen.before == 1
    assert re.search(said, seen.reason)


def test_a_revision_that_is_as_good_is_kept(registry, cluster, records):
    seen = watched(registry, cluster, records, MadeUpServer(1), MadeUpServer(2), seconds=2)
    assert not seen.worse
    assert seen.reason.startswith("not found worse than version 1 in ")


def test_without_traffic_it_ends_and_says_so(registry, cluster, records):
    seen = watched(registry, cluster, records, MadeUpServer(1, 0), MadeUpServer(2, 0), seconds=0.5)
    assert not seen.worse
    assert seen.reason.startswith("not enough traffic to say: 0 answers of it and 0 of version 1")


def test_without_any_server_it_ends(registry, cluster, records):
    assert not watched(registry, cluster, records, seconds=0.3).worse


def test_it_ends_when_all_requests_have_moved(registry, cluster, records):
    old = MadeUpServer(1)
    stop = threading.Timer(0.8, lambda: records.objects.pop(-2))
    stop.start()
    seen = watched(registry, cluster, records, old, MadeUpServer(2), seconds=60)
    stop.join()
    assert not seen.worse
    assert seen.reason.startswith("not found worse")


def test_it_ends_when_somebody_rolls_back_meanwhile(registry, cluster, records):
    def roll_back():
        registry_at(registry._store._artifacts.parent, name=registry.name).roll_back(
            registry.get("1"), replaced=2, actor="ada", reason="cats", image="server@a", from_image="server@b"
        )

    timer = threading.Timer(0.3, roll_back)
    timer.start()
    seen = watched(registry, cluster, records, MadeUpServer(1), MadeUpServer(2), seconds=60)
    timer.join()
    assert (seen.worse, seen.reason) == (False, "ada took version 2 out of service meanwhile: cats")


def test_what_comes_back_is_not_watched(registry, cluster, records):
    registry.roll_back(registry.get("1"), replaced=2, actor="ada", reason="cats", from_image="server@b")
    records.objects.pop()
    seen = watch(registry, cluster, "flowers", (1, "server@a"), seconds=60, report=lambda _: None)
    assert seen.reason == "version 1 served before and is back; there is nothing to watch"


def test_the_first_has_nothing_to_be_compared_with(registry, cluster, records):
    records.objects.pop(1)
    seen = watch(registry, cluster, "flowers", (2, "server@b"), seconds=60, report=lambda _: None)
    assert seen.reason == "version 2 is the first; there is nothing to compare it with"


def test_it_is_not_watched_twice(registry, cluster, records):
    registry.watched(registry.get("2"), actor="chain", reason="fine", image="server@b", from_version=1)
    seen = watch(registry, cluster, "flowers", (2, "server@b"), seconds=60, report=lambda _: None)
    assert seen.reason == "watched before: fine"


def test_a_missing_permission_is_named_with_its_remedy(registry, cluster, records):
    records.forbidden = ("pods",)
    with pytest.raises(ForbiddenError, match=r"cannot be watched: .*pods.*Role image-classifier-watch"):
        watched(registry, cluster, records)


def steps(registry, cluster, records, tmp_path, *servers):
    """The step `watch`, as the chain runs it; gives its results."""
    settings = replace(
        Settings(),
        home=registry._store._artifacts.parent,
        name=registry.name,
        model="2",
        image="server@b",
        service="flowers",
        watch_duration=Seconds(2.0),
        results=str(tmp_path),
    )
    with serving(*servers) as ports:
        for number, port in enumerate(ports):
            records.objects.append(a_pod(f"pod-{number}", port, "server@a" if number == 0 else "server@b"))
        chain.watch(settings, lambda _: None)
    return {name: (tmp_path / name).read_text() for name in ("verdict", "reason")}


def test_the_step_turns_a_bad_revision_back_and_says_why(registry, cluster, records, tmp_path):
    results = steps(registry, cluster, records, tmp_path, MadeUpServer(1), MadeUpServer(2, errors=0.2))
    assert results["verdict"] == "refused"
    assert re.match(r"turned back to version 1: \d.*% of its answers are errors", results["reason"])
    assert [item["metadata"]["name"] for item in records.objects if item["kind"] == "TaskRun"] == [
        "flowers-accept-0"
    ]
    event = registry.history()[0]
    assert (event.action, event.version, event.from_version) == ("rolled-back", 1, 2)
    assert event.from_image == "server@b"
    assert "of its answers are errors" in event.reason


def test_the_step_keeps_a_good_revision_and_notes_what_it_saw(registry, cluster, records, tmp_path):
    results = steps(registry, cluster, records, tmp_path, MadeUpServer(1), MadeUpServer(2))
    assert results["verdict"] == "accepted"
    event = registry.history()[0]
    assert (event.action, event.version, event.from_version, event.image) == ("watched", 2, 1, "server@b")
    assert event.reason == results["reason"]
