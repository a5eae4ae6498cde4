"""Back to what served before, with a recorded cluster and a real registry; tests/e2e/test_rollback.py has both real."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from image_classifier.errors import ClusterError, ConflictError, RegistryError
from image_classifier.platform.cluster import Cluster
from image_classifier.platform.workload import require_workload
from image_classifier.platform.workload_rollback import accepted_runs, pin, release, withdraw
from image_classifier.registry.events import withdrawal
from tests.platform.recorded_cluster import Records

BEGAN = datetime(2026, 11, 25, 12, tzinfo=UTC)
BY = {"actor": "ada", "reason": "worse on cats"}


def accept_run(version, image, minute, verdict="accepted"):
    results = {"verdict": verdict, "reason": "so", "image": image, "model-version": str(version)}
    return {
        "kind": "TaskRun",
        "metadata": {
            "name": f"flowers-accept-{minute}",
            "uid": f"uid-{minute}",
            "creationTimestamp": f"{BEGAN + timedelta(minutes=minute):%Y-%m-%dT%H:%M:%SZ}",
            "labels": {"carto.run/workload-name": "flowers", "carto.run/resource-name": "accept"},
        },
        "status": {
            "conditions": [{"type": "Succeeded", "status": "True"}],
            "results": [{"name": name, "value": value} for name, value in results.items()],
        },
    }


def a_workload(**params):
    return {
        "kind": "Workload",
        "metadata": {"name": "flowers", "generation": 3, "resourceVersion": "10"},
        "spec": {"params": [{"name": name, "value": value} for name, value in params.items()]},
        "status": {
            "resources": [{"name": "server-image", "outputs": [{"name": "image", "preview": "server@b\n"}]}]
        },
    }


@pytest.fixture
def records():
    return Records([a_workload(), accept_run(1, "server@a", 0), accept_run(2, "server@b", 1)])


def workload_of(cluster):
    return require_workload(cluster, "flowers")


def left(records):
    return [item["metadata"]["name"] for item in records.objects if item["kind"] == "TaskRun"]


def test_the_pair_before_comes_back_by_the_run_that_accepted_it(cluster, records, registry):
    change = withdraw(registry, cluster, workload_of(cluster), **BY)
    assert (change.before.number, change.after.number, change.image) == (2, 1, "server@a")
    assert left(records) == ["flowers-accept-0"]
    event = registry.history()[0]
    assert (event.action, event.version, event.from_version) == ("rolled-back", 1, 2)
    assert (event.image, event.from_image) == ("server@a", "server@b")
    assert registry.champion().number == 1


def test_an_image_is_turned_back_though_the_model_stays(cluster, records, registry):
    records.objects[1:] = [accept_run(2, "server@a", 0), accept_run(2, "server@b", 1)]
    change = withdraw(registry, cluster, workload_of(cluster), **BY)
    assert (change.before.number, change.after.number, change.image) == (2, 2, "server@a")
    assert (registry.champion().number, registry.history()[0].from_image) == (2, "server@b")


def test_what_is_withdrawn_or_failed_is_not_gone_back_to(cluster, records, registry):
    records.objects += [
        accept_run(3, "server@b", 2, verdict="failed"),
        accept_run(2, "server@b", 3),
        accept_run(1, "server@b", 4),
    ]
    registry.roll_back(registry.get("1"), replaced=2, from_image="server@b", **BY)
    registry.promote(registry.get("2"), actor="chain", reason="accepted")
    registry.promote(registry.get("1"), actor="chain", reason="accepted", image="server@b")
    change = withdraw(registry, cluster, workload_of(cluster), **BY)
    assert (change.after.number, change.image) == (1, "server@a")
    assert left(records) == ["flowers-accept-0", "flowers-accept-2"]


def test_a_roll_back_that_was_cut_off_is_completed_and_noted_once(cluster, records, registry, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Cluster, "delete", lambda *_: pytest.fail("cut off"))
        with pytest.raises(pytest.fail.Exception):
            withdraw(registry, cluster, workload_of(cluster), **BY)
    assert left(records) == ["flowers-accept-0", "flowers-accept-1"]
    withdraw(registry, cluster, workload_of(cluster), **BY)
    assert left(records) == ["flowers-accept-0"]
    assert [event.action for event in registry.history()] == ["rolled-back", "promoted", "promoted"]


def test_a_second_roll_back_at_the_same_time_does_not_go_one_further(cluster, records, registry):
    records.objects.insert(1, accept_run(1, "server@z", -1))
    withdraw(registry, cluster, workload_of(cluster), **BY)
    with pytest.raises(RegistryError, match="ada rolled back to version 1"):
        withdraw(registry, cluster, workload_of(cluster), **BY)
    assert left(records) == ["flowers-accept--1", "flowers-accept-0"]


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ([a_workload()], "nothing of workload flowers was accepted yet"),
        (
            [a_workload(), accept_run(2, "server@b", 1)],
            "no run is left that accepted another pair .*--to pins",
        ),
        ([a_workload(model_version="1")], "version 1 is pinned by the param model_version .*--release"),
    ],
)
def test_where_nothing_is_before_it_is_said(cluster, records, registry, objects, said):
    records.objects[:] = objects
    with pytest.raises(ClusterError, match=said):
        withdraw(registry, cluster, workload_of(cluster), **BY)
    assert registry.champion().number == 2


def test_a_pin_changes_one_param_and_is_recorded(cluster, records, registry):
    records.objects[0] = a_workload(budget="10s")
    change = pin(registry, cluster, workload_of(cluster), "1", **BY)
    assert (change.before.number, change.after.number) == (2, 1)
    assert records.objects[0]["spec"]["params"] == [
        {"name": "budget", "value": "10s"},
        {"name": "model_version", "value": "1"},
    ]
    event = registry.history()[0]
    assert (event.action, event.version, event.image, event.from_image) == ("rolled-back", 1, "server@b", "")


def test_a_withdrawn_version_that_is_pinned_is_tried_again(cluster, records, registry):
    withdraw(registry, cluster, workload_of(cluster), **BY)
    records.objects.append(accept_run(2, "server@b", 5, verdict="refused"))
    pin(registry, cluster, workload_of(cluster), "2", **BY)
    assert left(records) == ["flowers-accept-0"]
    assert withdrawal(registry.history(), 2, "server@b") is None


@pytest.mark.parametrize(("pinned", "to"), [(None, "2"), ("1", "1")])
def test_what_serves_already_is_not_pinned_again(cluster, records, registry, pinned, to):
    records.objects[0] = a_workload(**{"model_version": pinned} if pinned else {})
    with pytest.raises(ClusterError, match=f"version {to} serves already"):
        pin(registry, cluster, workload_of(cluster), to, **BY)
    assert records.patches == []


def test_a_change_of_the_status_meanwhile_does_not_stop_a_pin(cluster, records, registry):
    workload = workload_of(cluster)
    records.meanwhile = {"metadata": {"resourceVersion": "11"}}
    pin(registry, cluster, workload, "1", **BY)
    assert records.objects[0]["spec"]["params"] == [{"name": "model_version", "value": "1"}]
    assert len(records.patches) == 2


def test_a_change_by_somebody_else_meanwhile_is_not_overwritten(cluster, records, registry):
    workload = workload_of(cluster)
    records.meanwhile = {
        "metadata": {"resourceVersion": "11", "generation": 4},
        "spec": {"params": [{"name": "model_version", "value": "2"}]},
    }
    with pytest.raises(ConflictError, match="somebody else changed workload flowers at the same time"):
        pin(registry, cluster, workload, "1", **BY)
    assert records.objects[0]["spec"]["params"] == [{"name": "model_version", "value": "2"}]
    assert registry.champion().number == 2


def test_a_pin_is_released(cluster, records, registry):
    pin(registry, cluster, workload_of(cluster), "1", **BY)
    assert release(registry, cluster, workload_of(cluster), **BY).number == 1
    assert records.objects[0]["spec"]["params"] == []
    assert registry.history()[0].action == "released"


def test_a_withdrawn_pair_is_released_by_the_run_that_refused_it(cluster, records, registry):
    withdraw(registry, cluster, workload_of(cluster), **BY)
    # As the chain then does.
    records.objects.append(accept_run(2, "server@b", 5, verdict="refused"))
    assert release(registry, cluster, workload_of(cluster), **BY).number == 2
    assert left(records) == ["flowers-accept-0"]
    event = registry.history()[0]
    assert (event.action, event.version, event.image) == ("released", 2, "server@b")


def test_where_nothing_is_held_there_is_nothing_to_release(cluster, registry):
    with pytest.raises(ClusterError, match="neither a pinned nor a withdrawn version"):
        release(registry, cluster, workload_of(cluster), **BY)


def test_who_asks_is_known_by_the_name_that_the_cluster_has(cluster, records):
    assert cluster.user() == "dev"
    assert [run.pair for run in accepted_runs(cluster, "flowers")] == [(2, "server@b"), (1, "server@a")]
    assert json.dumps(records.patches) == "[]"
