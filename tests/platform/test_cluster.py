"""The real Kubernetes client against a fake API server; tests/e2e/test_why.py uses a real one."""

from typing import Any

import pytest

from image_classifier.errors import ClusterError, ConflictError, ForbiddenError, NoClusterError
from image_classifier.platform.cluster import EVENT, POD, WORKLOAD, Cluster, Kind, is_in_cluster
from tests.platform.api_server import NAMESPACE, ClusterState, write_kubeconfig
from tests.ports import free_port


def an_object(kind: str, name: str, **labels: str) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "labels": labels}}


@pytest.fixture
def state() -> ClusterState:
    return ClusterState(
        [
            an_object("Workload", "flowers"),
            an_object("ConfigMap", "flowers-model"),
            an_object("Pod", "one", app="a"),
            an_object("Pod", "two", app="a"),
            an_object("Pod", "three", app="a"),
            an_object("Pod", "other", app="b"),
            {**an_object("Event", "e1"), "involvedObject": {"name": "one"}},
            {**an_object("Event", "e2"), "involvedObject": {"name": "two"}},
        ],
        logs={"one/step-train": "first\nsecond\nthird\n"},
    )


def test_objects_are_read_by_name_and_listed_by_labels_and_fields_across_pages(cluster):
    assert cluster.namespace == NAMESPACE
    assert cluster.get(WORKLOAD, "flowers")["metadata"]["name"] == "flowers"
    assert cluster.get(Kind("ConfigMap", "configmaps", "v1"), "flowers-model")["kind"] == "ConfigMap"
    listed = cluster.list(POD, labels={"app": "a"})
    assert [item["metadata"]["name"] for item in listed] == ["one", "two", "three"]
    [event] = cluster.list(EVENT, fields="involvedObject.name=two")
    assert (event["kind"], event["metadata"]["name"]) == ("Event", "e2")


def test_an_object_that_does_not_exist_is_none_and_cannot_be_patched(cluster):
    assert cluster.get(WORKLOAD, "nothing") is None
    assert cluster.get(POD, "nothing") is None
    with pytest.raises(ClusterError, match="there is no Workload nothing in namespace team"):
        cluster.patch(WORKLOAD, "nothing", {})


def test_a_change_is_a_merge_patch(cluster, state):
    changed = cluster.patch(WORKLOAD, "flowers", {"spec": {"params": []}})
    assert changed["metadata"]["name"] == "flowers"
    assert state.patches == [{"spec": {"params": []}}]


def test_a_patch_of_an_outdated_version_is_a_conflict(cluster, state):
    state.concurrent_change = {"metadata": {"resourceVersion": "2"}}
    with pytest.raises(ConflictError, match=r"rejected .* to change .*flowers: the object has been modified"):
        cluster.patch(WORKLOAD, "flowers", {"metadata": {"resourceVersion": "1"}})


def test_an_object_is_deleted_once(cluster, state):
    state.objects[0]["metadata"]["uid"] = "u1"
    assert cluster.delete(WORKLOAD, "flowers", "u1")
    assert not cluster.delete(WORKLOAD, "flowers", "u1")


def test_the_cluster_tells_the_name_of_the_user(cluster, state):
    state.user = "anna"
    assert cluster.user() == "anna"


def test_a_log_has_the_last_lines_and_is_empty_for_a_container_that_never_ran(cluster):
    assert cluster.pod_log("one", "step-train", lines=2) == "second\nthird\n"
    assert cluster.pod_log("one", "step-gate", lines=2) == ""


def test_a_namespace_can_be_chosen(cluster):
    assert Cluster.connect("other").namespace == "other"
    assert Cluster.connect("other").list(POD) == []


def test_a_denied_request_names_the_role_that_allows_it(cluster, state):
    state.forbidden = ("pods",)
    with pytest.raises(ForbiddenError, match="not allowed to list pods in namespace team: .*cannot do that.*`view`"):
        cluster.list(POD)
    with pytest.raises(ForbiddenError, match="read the log of pod one"):
        cluster.pod_log("one", "step-train", lines=1)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "rejected the request to list pods: forced by the test"),
        (401, "does not accept your credentials .* log in again"),
        (500, "rejected the request to list pods: forced by the test"),
    ],
)
def test_a_failure_has_the_message_of_the_api_server(cluster, state, status, message):
    state.failure = status
    with pytest.raises(ClusterError, match=message):
        cluster.list(POD)


def test_a_cluster_that_does_not_answer_is_named(tmp_path, monkeypatch):
    address = f"http://127.0.0.1:{free_port()}"
    write_kubeconfig(tmp_path / "config", address)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(ClusterError, match=f"{address} does not answer .*refused.*KUBECONFIG"):
        Cluster.connect().get(WORKLOAD, "flowers")


def test_without_a_kubeconfig_no_cluster_is_configured(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(NoClusterError, match="no cluster is configured: set KUBECONFIG"):
        Cluster.connect()


def test_an_invalid_kubeconfig_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    (tmp_path / "config").write_text("apiVersion: v1\nkind: Config\n", encoding="utf-8")
    with pytest.raises(ClusterError, match="config configures no usable cluster"):
        Cluster.connect()


def test_a_laptop_is_not_in_a_cluster():
    assert not is_in_cluster()
