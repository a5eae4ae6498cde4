"""A worse revision is rolled back automatically: one with errors, a slow one, one that predicts a single class."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.cluster import BRIEF, Cluster, Repository, wait
from tests.e2e.user import Load, predict, wait_for_message, wait_until_ready

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
CLIENTS = 3
REASONS = {
    "errors": "error rate ",
    "slow": "mean latency ",
    "one-class": "class '9' predicted for 100 % of the requests",
}
"""Part of the reason for each fault of tests/e2e/faulty."""


@pytest.fixture(scope="module")
def watched(cluster: Cluster, repository: Repository) -> Iterator[str]:
    """A workload whose roll-outs are watched, with a good live version."""
    if not cluster.environment.get("E2E_FAULTY_IMAGE"):
        pytest.skip("needs E2E_FAULTY_IMAGE")
    cluster.allow_watching()
    params = {**BRIEF, "watch_duration": "150s", "rollout_duration": "60s"}
    source = ("--git-repo", repository.address, "--git-branch", "main")
    with cluster.workload("watched", *source, **params) as name:
        wait_until_ready(cluster, name)
        yield name


def deployed_image(cluster: Cluster, name: str) -> str:
    service = cluster.get("inferenceservice", name)
    return str(service["spec"]["predictor"]["containers"][0]["image"])


@pytest.mark.parametrize("fault", os.environ.get("E2E_PLANTED", "errors").split(","))
def test_a_worse_revision_is_rolled_back_with_a_reason(cluster: Cluster, watched: str, fault: str):
    reason = REASONS[fault]
    good, bad = cluster.environment["E2E_SERVER_IMAGE"], cluster.environment["E2E_FAULTY_IMAGE"]
    with ExitStack() as stack:
        loads = [stack.enter_context(Load(cluster.url(watched))) for _ in range(CLIENTS)]
        cluster.change(watched, "--env", f"PLANTED={fault}", server_image=bad)
        if cluster.message(watched, "accept").strip():  # this pair was rolled back before
            cluster.image_classifier("rollback", watched, "--namespace", cluster.namespace, "--release")
        wait("the bad image", lambda: deployed_image(cluster, watched) == bad, 200)
        started = time.monotonic()
        wait("the good image", lambda: deployed_image(cluster, watched) == good, 200)
        print(f"{fault}: rolled back {time.monotonic() - started:.0f} s after it went live")
        wait("all traffic", lambda: not bad_revision_has_traffic(cluster, watched), 60)
        print(f"{fault}: without traffic after {time.monotonic() - started:.0f} s")
    print(f"{sum(load.answered for load in loads)} answers, {sum(len(load.lost) for load in loads)} failed")
    if fault != "errors":
        assert [load.lost for load in loads] == [[]] * CLIENTS
    print(wait_for_message(cluster, watched, "accept", reason))
    last = json.loads(cluster.image_classifier("history", "--name", watched, "--json"))[0]
    assert (last["action"], last["from_image"], last["image"]) == ("rolled-back", bad, good)
    assert reason in last["reason"]
    print(cluster.image_classifier("history", "--name", watched))
    assert predict(cluster.url(watched)) == "1"


def bad_revision_has_traffic(cluster: Cluster, name: str) -> bool:
    """Whether another revision than the newest still gets requests."""
    status = cluster.get("inferenceservice", name)["status"]
    traffic = status["components"]["predictor"].get("traffic", [])
    return len([part for part in traffic if part.get("percent")]) > 1 or not any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in status["conditions"]
    )


def test_without_traffic_the_watch_ends_and_the_roll_out_stays(cluster: Cluster, watched: str):
    cluster.change(
        watched, "--env", "PLANTED-", server_image=cluster.environment["E2E_FAULTY_IMAGE"], watch_duration="8s"
    )
    release = ("rollback", watched, "--namespace", cluster.namespace, "--release", "--reason", "fixed")
    cluster.image_classifier(*release)
    wait_until_ready(cluster, watched)
    last = cluster.runs(watched, "watch")[-1]
    reason = {item["name"]: item["value"] for item in last["status"]["results"]}["reason"]
    print(reason)
    assert reason.startswith("not enough traffic to compare")
