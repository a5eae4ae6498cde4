"""How a cluster is asked, with the real client; that a real one is asked so is shown by tests/e2e/test_why.py."""

from typing import Any

import pytest

from image_classifier.errors import ClusterError, ConflictError, ForbiddenError, NoClusterError
from image_classifier.platform.cluster import EVENT, POD, WORKLOAD, Cluster, Kind, is_in_cluster
from image_classifier.steps.local_server import free_port
from tests.platform.recorded_cluster import NAMESPACE, Records, write_kubeconfig


def an_object(kind: str, name: str, **labels: str) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "labels": labels}}


@pytest.fixture
def records() -> Records:
    return Records(
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


def test_objects_are_read_and_listed_by_labels_and_fields_over_all_pages(cluster):
    assert cluster.namespace == NAMESPACE
    assert cluster.get(WORKLOAD, "flowers")["metadata"]["name"] == "flowers"
    assert cluster.get(Kind("ConfigMap", "configmaps", "v1"), "flowers-model")["kind"] == "ConfigMap"
    listed = cluster.list(POD, labels={"app": "a"})
    assert [item["metadata"]["name"] for item in listed] == ["one", "two", "three"]
    [event] = cluster.list(EVENT, fields="involvedObject.name=two")
    assert (event["kind"], event["metadata"]["name"]) == ("Event", "e2")


def test_what_is_not_there_is_none_and_its_change_an_error(cluster):
    assert cluster.get(WORKLOAD, "nothing") is None
    assert cluster.get(POD, "nothing") is None
    with pytest.raises(ClusterError, match="there is no Workload nothing in namespace team"):
        cluster.patch(WORKLOAD, "nothing", {})


def test_a_change_is_a_merge_patch(cluster, records):
    changed = cluster.patch(WORKLOAD, "flowers", {"spec": {"params": []}})
    assert changed["metadata"]["name"] == "flowers"
    assert records.patches == [{"spec": {"params": []}}]


def test_a_change_of_what_has_changed_meanwhile_is_a_conflict(cluster, records):
    records.meanwhile = {"metadata": {"resourceVersion": "2"}}
    with pytest.raises(ConflictError, match="refuses to change .*flowers: the object has been modified"):
        cluster.patch(WORKLOAD, "flowers", {"metadata": {"resourceVersion": "1"}})


def test_an_object_is_deleted_once_and_only_as_the_one_that_was_seen(cluster, records):
    records.objects[0]["metadata"]["uid"] = "u1"
    assert cluster.delete(WORKLOAD, "flowers", "u1")
    assert not cluster.delete(WORKLOAD, "flowers", "u1")


def test_the_cluster_says_whom_it_takes_the_user_for(cluster, records):
    records.user = "anna"
    assert cluster.user() == "anna"


def test_the_last_lines_of_a_log_are_read_and_of_what_never_ran_nothing(cluster):
    assert cluster.log("one", "step-train", lines=2) == "second\nthird\n"
    assert cluster.log("one", "step-gate", lines=2) == ""


def test_another_namespace_may_be_named(cluster):
    assert Cluster.connect("other").namespace == "other"
    assert Cluster.connect("other").list(POD) == []


def test_what_this_user_may_not_do_is_said_with_whom_to_ask(cluster, records):
    records.forbidden = ("pods",)
    with pytest.raises(
        ForbiddenError, match="you may not list pods in namespace team: .*cannot do that.*`view`"
    ):
        cluster.list(POD)
    with pytest.raises(ForbiddenError, match="read the log of pod one"):
        cluster.log("one", "step-train", lines=1)


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "does not know you .* log in again"), (500, "refuses to list pods: as the test")],
)
def test_a_cluster_that_refuses_is_quoted(cluster, records, status, said):
    records.answer = status
    with pytest.raises(ClusterError, match=said):
        cluster.list(POD)


def test_a_cluster_that_is_not_running_is_named(tmp_path, monkeypatch):
    address = f"http://127.0.0.1:{free_port()}"
    write_kubeconfig(tmp_path / "config", address)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(ClusterError, match=f"{address} does not answer .*refused.*KUBECONFIG"):
        Cluster.connect().get(WORKLOAD, "flowers")


def test_without_a_kubeconfig_it_is_said_that_there_is_no_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(NoClusterError, match="no cluster is named here: set KUBECONFIG"):
        Cluster.connect()


def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    (tmp_path / "config").write_text("apiVersion: v1\nkind: Config\n", encoding="utf-8")
    with pytest.raises(ClusterError, match="names no cluster that can be used"):
        Cluster.connect()


def test_a_laptop_is_no_cluster():
    assert not is_in_cluster()
