"""Counters of server pods; the metrics are those of a real server."""

import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from image_classifier.monitoring.revision_comparison import ResponseCounts
from image_classifier.platform.pod_metrics import CounterIncrements, PodCounts, read_pod_counts
from tests.platform.api_server import ClusterState


def server_pod(name, port, image, service="flowers", address="127.0.0.1"):
    return {
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"serving.kserve.io/inferenceservice": service}},
        "spec": {
            "containers": [
                {"name": "queue-proxy"},
                {
                    "name": "kserve-container",
                    "ports": [{"containerPort": port}],
                    "env": [{"name": "IMAGE_CLASSIFIER_IMAGE", "value": image}],
                },
            ]
        },
        "status": {"podIP": address} if address else {},
    }


def answer_status(url, path, body=None):
    try:
        return urllib.request.urlopen(f"{url}{path}", body).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_answers_are_counted_with_their_times_and_classes(ready_server_url, served_package, connect):
    port = urlsplit(ready_server_url).port
    cluster = connect(
        ClusterState(
            [
                server_pod("one", port, "server@b"),
                server_pod("other", port, "server@b", service="flowers-candidate"),
                server_pod("pending", port, "server@b", address=""),
                server_pod("stopped", 1, "server@a"),
            ]
        )
    )
    before = [pod.counts for pod in read_pod_counts(cluster, "flowers")]
    for _ in range(4):
        assert answer_status(ready_server_url, "/predict", served_package.golden[0].png) == 200
    assert answer_status(ready_server_url, "/predict", b"no image") == 400
    assert answer_status(ready_server_url, "/healthz") == 200
    [pod] = read_pod_counts(cluster, "flowers")
    assert (pod.name, pod.pair) == ("one", (7, "server@b"))
    counts = pod.counts - (before[0] if before else ResponseCounts())
    assert (counts.responses, counts.errors) == (5, 0)
    assert {name: count for name, count in counts.classes.items() if count} == {"red": 4}
    assert 0 < counts.seconds < 5
    assert counts.buckets[10.0] == 5


def pods(*counts):
    return [PodCounts(name, (version, "server@a"), ResponseCounts(responses)) for name, version, responses in counts]


def test_increments_start_at_the_first_reading_and_count_later_pods_from_zero():
    increments = CounterIncrements()
    assert increments.since_last(pods(("old", 6, 1000)))[6, "server@a"].responses == 0
    grown = increments.since_last(pods(("old", 6, 1010), ("new", 7, 5)))
    assert {pair[0]: counts.responses for pair, counts in grown.items()} == {6: 10, 7: 5}


def test_pods_of_a_pair_are_added_and_a_pod_that_skips_a_reading_is_not_counted_twice():
    increments = CounterIncrements()
    increments.since_last(pods(("a", 7, 100), ("b", 7, 100)))
    assert increments.since_last(pods(("a", 7, 110)))[7, "server@a"].responses == 10
    assert increments.since_last(pods(("a", 7, 110), ("b", 7, 105)))[7, "server@a"].responses == 5


def test_a_restarted_container_counts_from_zero():
    increments = CounterIncrements()
    increments.since_last(pods(("a", 7, 100)))
    assert increments.since_last(pods(("a", 7, 3)))[7, "server@a"].responses == 3


def test_a_pod_is_read_past_the_proxy(http_answers, connect, monkeypatch):
    cluster = connect(ClusterState([server_pod("one", http_answers.server_port, "server@b")]))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    http_answers.answer = (200, b'image_classifier_model{version="7"} 1\n')
    assert [pod.pair for pod in read_pod_counts(cluster, "flowers")] == [(7, "server@b")]
