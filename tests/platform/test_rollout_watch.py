"""The outcome of a watch, with simulated servers, a fake cluster, a fake clock and a real registry.

tests/e2e/test_watch.py watches real servers behind Knative.
"""

import random
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from image_classifier.errors import ForbiddenError
from image_classifier.package.identity import ModelIdentity
from image_classifier.platform import rollout_watch
from image_classifier.platform.rollout_watch import watch_rollout
from image_classifier.serving.observe.metrics import Metrics
from image_classifier.settings import Seconds, Settings
from image_classifier.steps.watch import watch
from tests.platform.api_server import ClusterState, running
from tests.platform.conftest import FakeClock
from tests.platform.test_pod_metrics import server_pod
from tests.platform.test_workload_rollback import accept_run, workload_object

pytestmark = pytest.mark.slow


class SimulatedServer(ThreadingHTTPServer):
    """Serves the /metrics of a server that answers some requests between any two readings."""

    def __init__(self, version, requests=30, errors=0.0, seconds=0.002, answer=None):
        self.metrics = Metrics(ModelIdentity("flowers", str(version), "", "", ""))
        super().__init__(("127.0.0.1", 0), self._handler(requests, errors, seconds, answer))

    def _handler(self, requests, errors, seconds, answer):
        generator, metrics = random.Random(0), self.metrics

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                for _ in range(requests):
                    metrics.request("/predict", 500 if generator.random() < errors else 200, seconds)
                    metrics.inferred(seconds, 1, answer or generator.choice("abcdef"))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(metrics.text())

            def log_message(self, *_):
                pass

        return Handler


@contextmanager
def serving(state: ClusterState, *servers: SimulatedServer) -> Iterator[None]:
    """Run the servers, and add their pods to the cluster: the old revision first."""
    with ExitStack() as stack:
        for number, server in enumerate(servers):
            stack.enter_context(running(server))
            image = "server@a" if number == 0 else "server@b"
            state.objects.append(server_pod(f"pod-{number}", server.server_port, image))
        yield


@pytest.fixture
def state(registry):
    return ClusterState(
        [workload_object(name=registry.name), accept_run(1, "server@a", 0), accept_run(2, "server@b", 1)]
    )


@pytest.fixture
def clock(monkeypatch):
    """The clock of the watch."""
    clock = FakeClock()
    monkeypatch.setattr(rollout_watch, "time", clock)
    return clock


@pytest.fixture
def observe(registry, cluster, state, clock):
    """Watches the roll-out of a pair while servers run."""

    def observe(*servers, pair=(2, "server@b"), seconds=60.0):
        with serving(state, *servers):
            return watch_rollout(registry, cluster, "flowers", pair, seconds=seconds, report=lambda _: None)

    return observe


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        ({"errors": 0.05}, r"error rate .*compared with 0\.0 % .*for version 1"),
        ({"seconds": 0.006}, r"mean latency 6\.0 ms, compared with 2\.0 ms for version 1"),
        ({"answer": "a"}, r"class 'a' predicted for 100 % of the requests, compared with \d+ % for version 1"),
    ],
    ids=["errors", "slow", "one class"],
)
def test_a_worse_revision_is_detected_before_time_is_up(observe, clock, defect, message):
    observation = observe(SimulatedServer(1), SimulatedServer(2, **defect), seconds=600)
    assert observation.worse
    assert observation.before == 1
    assert re.search(message, observation.reason)
    assert clock.now < 600


def test_a_revision_that_is_as_good_is_kept(observe, clock):
    observation = observe(SimulatedServer(1), SimulatedServer(2))
    assert not observation.worse
    assert observation.reason.startswith("not significantly worse than version 1: ")
    assert clock.now == 60


def test_without_traffic_the_watch_ends_without_a_comparison(observe):
    observation = observe(SimulatedServer(1, 0), SimulatedServer(2, 0))
    assert not observation.worse
    assert observation.reason.startswith("not enough traffic to compare: 0 responses, and 0 from version 1")


def test_without_servers_the_watch_ends(observe):
    assert not observe().worse


def test_the_watch_ends_when_all_traffic_has_moved(observe, state, clock):
    clock.at[20] = lambda: state.objects.pop(-2)
    observation = observe(SimulatedServer(1), SimulatedServer(2), seconds=600)
    assert not observation.worse
    assert observation.reason.startswith("not significantly worse")
    assert clock.now == 30


def test_the_watch_ends_when_someone_rolls_back(observe, registry, clock):
    clock.at[5] = lambda: registry.history.roll_back(
        registry.versions.get("1"), replaced=2, actor="ada", reason="cats", image="server@a", from_image="server@b"
    )
    observation = observe(SimulatedServer(1), SimulatedServer(2), seconds=600)
    assert (observation.worse, observation.reason) == (False, "version 2 was rolled back by ada during the watch: cats")
    assert clock.now < 30


def test_a_version_restored_by_a_rollback_is_not_watched(observe, registry, state):
    registry.history.roll_back(
        registry.versions.get("1"), replaced=2, actor="ada", reason="cats", from_image="server@b"
    )
    state.objects.pop()
    observation = observe(pair=(1, "server@a"))
    assert observation.reason == "version 1 was live before and returned by a rollback; nothing to watch"


def test_the_first_version_has_nothing_to_be_compared_with(observe, state):
    state.objects.pop(1)
    assert observe().reason == "version 2 is the first; nothing to compare it with"


def test_a_pair_is_not_watched_twice(observe, registry):
    registry.history.record_watch(
        registry.versions.get("2"), actor="chain", reason="fine", image="server@b", from_version=1
    )
    assert observe().reason == "watched before: fine"


def test_a_missing_permission_is_reported_with_the_role_that_gives_it(observe, state):
    state.forbidden = ("pods",)
    with pytest.raises(ForbiddenError, match=r"cannot watch this roll-out: .*pods.*Role image-classifier-watch"):
        observe()


@pytest.fixture
def watch_step(registry, cluster, state, clock, tmp_path):
    """Runs the step `watch` as the supply chain does; returns its results."""

    def watch_step(*servers):
        settings = replace(
            Settings(),
            home=registry._store._artifacts.parent,
            name=registry.name,
            model="2",
            image="server@b",
            service="flowers",
            watch_duration=Seconds(60.0),
            results=str(tmp_path),
        )
        with serving(state, *servers):
            watch(settings, lambda _: None)
        return {name: (tmp_path / name).read_text() for name in ("verdict", "reason")}

    return watch_step


def test_the_step_rolls_back_a_worse_revision_and_records_why(watch_step, registry, state):
    results = watch_step(SimulatedServer(1), SimulatedServer(2, errors=0.2))
    assert results["verdict"] == "refused"
    assert re.match(r"rolled back to version 1: error rate \d", results["reason"])
    assert [item["metadata"]["name"] for item in state.objects if item["kind"] == "TaskRun"] == ["flowers-accept-0"]
    event = registry.history.events()[0]
    assert (event.action, event.version, event.from_version) == ("rolled-back", 1, 2)
    assert event.from_image == "server@b"
    assert event.reason.startswith("error rate")


def test_the_step_keeps_a_good_revision_and_records_the_comparison(watch_step, registry):
    results = watch_step(SimulatedServer(1), SimulatedServer(2))
    assert results["verdict"] == "accepted"
    event = registry.history.events()[0]
    assert (event.action, event.version, event.from_version, event.image) == ("watched", 2, 1, "server@b")
    assert event.reason == results["reason"]
