"""Rollback with a fake cluster and a real registry; tests/e2e/test_rollback.py uses a real cluster."""

from datetime import UTC, datetime, timedelta

import pytest

from image_classifier.errors import ClusterError, ConflictError, RegistryError
from image_classifier.platform.cluster import Cluster
from image_classifier.platform.workload import require_workload
from image_classifier.platform.workload_rollback import (
    accepted_runs,
    pin_version,
    release_version,
    request_reconcile,
    withdraw_live_pair,
)
from image_classifier.registry.events import withdrawal
from tests.platform.api_server import ClusterState

pytestmark = pytest.mark.slow

STARTED = datetime(2026, 11, 25, 12, tzinfo=UTC)
BY = {"actor": "ada", "reason": "worse on cats"}


def accept_run(version, image, minute, verdict="accepted"):
    results = {"verdict": verdict, "reason": "so", "image": image, "model-version": str(version)}
    return {
        "kind": "TaskRun",
        "metadata": {
            "name": f"flowers-accept-{minute}",
            "uid": f"uid-{minute}",
            "creationTimestamp": f"{STARTED + timedelta(minutes=minute):%Y-%m-%dT%H:%M:%SZ}",
            "labels": {"carto.run/workload-name": "flowers", "carto.run/resource-name": "accept"},
        },
        "status": {
            "conditions": [{"type": "Succeeded", "status": "True"}],
            "results": [{"name": name, "value": value} for name, value in results.items()],
        },
    }


def workload_object(**params):
    return {
        "kind": "Workload",
        "metadata": {"name": "flowers", "generation": 3, "resourceVersion": "10"},
        "spec": {"params": [{"name": name, "value": value} for name, value in params.items()]},
        "status": {"resources": [{"name": "server-image", "outputs": [{"name": "image", "preview": "server@b\n"}]}]},
    }


@pytest.fixture
def state():
    return ClusterState([workload_object(), accept_run(1, "server@a", 0), accept_run(2, "server@b", 1)])


def workload_of(cluster):
    return require_workload(cluster, "flowers")


def remaining_runs(state):
    return [item["metadata"]["name"] for item in state.objects if item["kind"] == "TaskRun"]


def test_the_pair_before_is_restored_by_the_run_that_accepted_it(cluster, state, registry):
    rollback = withdraw_live_pair(registry, cluster, workload_of(cluster), **BY)
    assert (rollback.before.number, rollback.after.number, rollback.image) == (2, 1, "server@a")
    assert remaining_runs(state) == ["flowers-accept-0"]
    event = registry.history.events()[0]
    assert (event.action, event.version, event.from_version) == ("rolled-back", 1, 2)
    assert (event.image, event.from_image) == ("server@a", "server@b")
    assert registry.versions.champion().number == 1


def test_an_image_is_rolled_back_even_if_the_model_is_the_same(cluster, state, registry):
    state.objects[1:] = [accept_run(2, "server@a", 0), accept_run(2, "server@b", 1)]
    rollback = withdraw_live_pair(registry, cluster, workload_of(cluster), **BY)
    assert (rollback.before.number, rollback.after.number, rollback.image) == (2, 2, "server@a")
    assert (registry.versions.champion().number, registry.history.events()[0].from_image) == (2, "server@b")


def test_withdrawn_pairs_and_failed_runs_are_not_targets(cluster, state, registry):
    state.objects += [
        accept_run(3, "server@b", 2, verdict="failed"),
        accept_run(2, "server@b", 3),
        accept_run(1, "server@b", 4),
    ]
    registry.history.roll_back(registry.versions.get("1"), replaced=2, from_image="server@b", **BY)
    registry.history.promote(registry.versions.get("2"), actor="chain", reason="accepted")
    registry.history.promote(registry.versions.get("1"), actor="chain", reason="accepted", image="server@b")
    rollback = withdraw_live_pair(registry, cluster, workload_of(cluster), **BY)
    assert (rollback.after.number, rollback.image) == (1, "server@a")
    assert remaining_runs(state) == ["flowers-accept-0", "flowers-accept-2"]


def test_an_interrupted_rollback_is_completed_and_recorded_once(cluster, state, registry, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Cluster, "delete", lambda *_: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            withdraw_live_pair(registry, cluster, workload_of(cluster), **BY)
    assert remaining_runs(state) == ["flowers-accept-0", "flowers-accept-1"]
    withdraw_live_pair(registry, cluster, workload_of(cluster), **BY)
    assert remaining_runs(state) == ["flowers-accept-0"]
    assert [event.action for event in registry.history.events()] == ["rolled-back", "promoted", "promoted"]


def test_a_second_rollback_at_the_same_time_is_refused(cluster, state, registry):
    state.objects.insert(1, accept_run(1, "server@z", -1))
    withdraw_live_pair(registry, cluster, workload_of(cluster), **BY)
    with pytest.raises(RegistryError, match="ada rolled back to version 1"):
        withdraw_live_pair(registry, cluster, workload_of(cluster), **BY)
    assert remaining_runs(state) == ["flowers-accept--1", "flowers-accept-0"]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([workload_object()], "workload flowers has no accepted version yet"),
        (
            [workload_object(), accept_run(2, "server@b", 1)],
            "no TaskRun is left that accepted another pair .*pin a version with --to",
        ),
        ([workload_object(model_version="1")], "version 1 is pinned by the param model_version .*--release"),
    ],
)
def test_without_a_pair_before_nothing_is_rolled_back(cluster, state, registry, objects, message):
    state.objects[:] = objects
    with pytest.raises(ClusterError, match=message):
        withdraw_live_pair(registry, cluster, workload_of(cluster), **BY)
    assert registry.versions.champion().number == 2


def test_a_pin_sets_one_param_and_is_recorded(cluster, state, registry):
    state.objects[0] = workload_object(budget="10s")
    rollback = pin_version(registry, cluster, workload_of(cluster), "1", **BY)
    assert (rollback.before.number, rollback.after.number) == (2, 1)
    assert state.objects[0]["spec"]["params"] == [
        {"name": "budget", "value": "10s"},
        {"name": "model_version", "value": "1"},
    ]
    event = registry.history.events()[0]
    assert (event.action, event.version, event.image, event.from_image) == ("rolled-back", 1, "server@b", "")


def test_a_withdrawn_version_that_is_pinned_is_tried_again(cluster, state, registry):
    withdraw_live_pair(registry, cluster, workload_of(cluster), **BY)
    state.objects.append(accept_run(2, "server@b", 5, verdict="refused"))
    pin_version(registry, cluster, workload_of(cluster), "2", **BY)
    assert remaining_runs(state) == ["flowers-accept-0"]
    assert withdrawal(registry.history.events(), 2, "server@b") is None


@pytest.mark.parametrize(("pinned", "to"), [(None, "2"), ("1", "1")])
def test_a_live_version_is_not_pinned_again(cluster, state, registry, pinned, to):
    state.objects[0] = workload_object(**{"model_version": pinned} if pinned else {})
    with pytest.raises(ClusterError, match=f"version {to} is already live"):
        pin_version(registry, cluster, workload_of(cluster), to, **BY)
    assert state.patches == []


def test_a_concurrent_change_of_the_status_does_not_prevent_a_pin(cluster, state, registry):
    workload = workload_of(cluster)
    state.concurrent_change = {"metadata": {"resourceVersion": "11"}}
    pin_version(registry, cluster, workload, "1", **BY)
    assert state.objects[0]["spec"]["params"] == [{"name": "model_version", "value": "1"}]
    assert len(state.patches) == 2


def test_a_pin_does_not_overwrite_a_concurrent_change_and_is_not_recorded(cluster, state, registry):
    workload = workload_of(cluster)
    state.concurrent_change = {
        "metadata": {"resourceVersion": "11", "generation": 4},
        "spec": {"params": [{"name": "model_version", "value": "2"}]},
    }
    with pytest.raises(ConflictError, match="workload flowers was changed by someone else at the same time"):
        pin_version(registry, cluster, workload, "1", **BY)
    assert state.objects[0]["spec"]["params"] == [{"name": "model_version", "value": "2"}]
    assert registry.versions.champion().number == 2


def test_a_pin_is_released(cluster, state, registry):
    pin_version(registry, cluster, workload_of(cluster), "1", **BY)
    assert release_version(registry, cluster, workload_of(cluster), **BY).number == 1
    assert state.objects[0]["spec"]["params"] == []
    assert registry.history.events()[0].action == "released"


def test_a_withdrawn_pair_is_released_and_its_refusal_deleted(cluster, state, registry):
    withdraw_live_pair(registry, cluster, workload_of(cluster), **BY)
    # As the supply chain does.
    state.objects.append(accept_run(2, "server@b", 5, verdict="refused"))
    assert release_version(registry, cluster, workload_of(cluster), **BY).number == 2
    assert remaining_runs(state) == ["flowers-accept-0"]
    event = registry.history.events()[0]
    assert (event.action, event.version, event.image) == ("released", 2, "server@b")


def test_without_a_pin_or_withdrawal_nothing_is_released(cluster, registry):
    with pytest.raises(ClusterError, match="neither a pinned nor a withdrawn version"):
        release_version(registry, cluster, workload_of(cluster), **BY)


def test_accepted_runs_are_listed_newest_first(cluster):
    assert [run.pair for run in accepted_runs(cluster, "flowers")] == [(2, "server@b"), (1, "server@a")]


def test_a_reconcile_is_requested_by_an_annotation(cluster, state):
    request_reconcile(cluster, workload_of(cluster))
    [patch] = state.patches
    assert list(patch["metadata"]["annotations"]) == ["image-classifier/woken-at"]
