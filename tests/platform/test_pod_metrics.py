"""What servers have answered, from the /metrics of real ones on this machine."""

import json
import shutil

import pytest

from image_classifier.monitoring.revision_comparison import AnswerCounts
from image_classifier.platform.cluster import Cluster
from image_classifier.platform.pod_metrics import Increments, Pod, pods_of
from tests.platform.recorded_cluster import Records, recorded_cluster
from tests.serving.server_process import running


def a_pod(name, port, image, service="flowers", address="127.0.0.1"):
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


@pytest.fixture(scope="module")
def server(package_folder, tmp_path_factory):
    """A server of version 7, that was asked five times."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(package_folder, folder / "package")
    about = {"name": "flowers", "version": 7, "uri": "models:/flowers/7"}
    (folder / "package" / "version.json").write_text(json.dumps(about), encoding="utf-8")
    red = (package_folder / "golden" / "000.png").read_bytes()
    with running(folder / "package", folder / "log") as server:
        for _ in range(4):
            assert server.ask("POST", "/predict", red).status == 200
        assert server.ask("POST", "/predict", b"no image").status == 400
        assert server.ask("GET", "/healthz").status == 200
        yield server


def test_a_servers_answers_are_counted_with_their_times_and_classes(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    records = Records(
        [
            a_pod("one", server.port, "server@b"),
            a_pod("other", server.port, "server@b", service="flowers-candidate"),
            a_pod("pending", server.port, "server@b", address=""),
            a_pod("stopped", 1, "server@a"),
        ]
    )
    with recorded_cluster(records, tmp_path / "config"):
        [pod] = pods_of(Cluster.connect(), "flowers")
    assert (pod.name, pod.pair) == ("one", (7, "server@b"))
    assert (pod.counts.answers, pod.counts.errors) == (5, 0)
    assert pod.counts.classes == {"red": 4}
    assert 0 < pod.counts.seconds < 5
    assert pod.counts.within[10.0] == 5


def pods(*counts):
    return [Pod(name, (version, "server@a"), AnswerCounts(answers)) for name, version, answers in counts]


def test_increments_begin_with_what_is_there_and_count_later_pods_from_nothing():
    increments = Increments()
    assert increments.since_last(pods(("old", 6, 1000)))[6, "server@a"].answers == 0
    grown = increments.since_last(pods(("old", 6, 1010), ("new", 7, 5)))
    assert {pair[0]: counts.answers for pair, counts in grown.items()} == {6: 10, 7: 5}


def test_pods_of_a_pair_count_together_and_one_that_is_silent_for_a_moment_is_not_counted_again():
    increments = Increments()
    increments.since_last(pods(("a", 7, 100), ("b", 7, 100)))
    assert increments.since_last(pods(("a", 7, 110)))[7, "server@a"].answers == 10
    assert increments.since_last(pods(("a", 7, 110), ("b", 7, 105)))[7, "server@a"].answers == 5


def test_a_container_that_was_started_again_counts_from_nothing():
    increments = Increments()
    increments.since_last(pods(("a", 7, 100)))
    assert increments.since_last(pods(("a", 7, 3)))[7, "server@a"].answers == 3
