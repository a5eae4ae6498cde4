"""A bad revision is turned back by itself: one with errors, one that is slow, one that answers one class only."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.cluster import Cluster, Repository, wait
from tests.e2e.user import Load, ask, settled, unwell

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
CLIENTS = 3
SAID = {
    "errors": "of its answers are errors",
    "slow": "its answers take",
    "one-class": "it answers '9' to 100% of the requests",
}
"""What is said of each fault; the server's faults are in the folder faulty."""


@pytest.fixture(scope="module")
def watched(cluster: Cluster, repository: Repository) -> Iterator[str]:
    """A workload whose roll-outs are watched; what serves is well."""
    if not cluster.environment.get("E2E_FAULTY_IMAGE"):
        pytest.skip("needs E2E_FAULTY_IMAGE")
    cluster.allow_watching()
    params = {"budget": "2s", "min_accuracy": "0.3", "watch_duration": "150s", "rollout_duration": "60s"}
    source = ("--git-repo", repository.address, "--git-branch", "main")
    with cluster.workload("watched", *source, **params) as name:
        settled(cluster, name)
        yield name


def image_that_answers(cluster: Cluster, name: str) -> str:
    service = cluster.get("inferenceservice", name)
    return str(service["spec"]["predictor"]["containers"][0]["image"])


@pytest.mark.parametrize("fault", os.environ.get("E2E_PLANTED", "errors").split(","))
def test_a_bad_revision_is_turned_back_with_its_reason(cluster: Cluster, watched: str, fault: str):
    said = SAID[fault]
    good, bad = cluster.environment["E2E_SERVER_IMAGE"], cluster.environment["E2E_FAULTY_IMAGE"]
    with ExitStack() as stack:
        loads = [stack.enter_context(Load(cluster.url(watched))) for _ in range(CLIENTS)]
        cluster.change(watched, "--env", f"PLANTED={fault}", server_image=bad)
        if cluster.message(watched, "accept").strip():  # the same pair, which was withdrawn
            cluster.image_classifier("rollback", watched, "--namespace", cluster.namespace, "--release")
        wait("the bad one", lambda: image_that_answers(cluster, watched) == bad, 200)
        began = time.monotonic()
        wait("the good one", lambda: image_that_answers(cluster, watched) == good, 200)
        print(f"{fault}: turned back {time.monotonic() - began:.0f} s after it began to serve")
        wait("all of it", lambda: not bad_revision_serves(cluster, watched), 60)
        print(f"{fault}: out of service after {time.monotonic() - began:.0f} s")
    print(f"{sum(load.answered for load in loads)} answers, {sum(len(load.lost) for load in loads)} failed")
    if fault != "errors":
        assert [load.lost for load in loads] == [[]] * CLIENTS
    print(unwell(cluster, watched, "accept", said))
    last = json.loads(cluster.image_classifier("history", "--name", watched, "--json"))[0]
    assert (last["action"], last["from_image"], last["image"]) == ("rolled-back", bad, good)
    assert said in last["reason"]
    print(cluster.image_classifier("history", "--name", watched))
    assert ask(cluster.url(watched)) == "1"


def bad_revision_serves(cluster: Cluster, name: str) -> bool:
    """Whether requests still go to another revision than the newest."""
    status = cluster.get("inferenceservice", name)["status"]
    traffic = status["components"]["predictor"].get("traffic", [])
    return len([part for part in traffic if part.get("percent")]) > 1 or not any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in status["conditions"]
    )


def test_without_traffic_a_roll_out_is_kept_and_the_watch_ends(cluster: Cluster, watched: str):
    cluster.change(
        watched,
        "--env",
        "PLANTED-",
        server_image=cluster.environment["E2E_FAULTY_IMAGE"],
        watch_duration="8s",
    )
    release = ("rollback", watched, "--namespace", cluster.namespace, "--release", "--reason", "mended")
    cluster.image_classifier(*release)
    settled(cluster, watched)
    last = cluster.runs(watched, "watch")[-1]
    reason = {item["name"]: item["value"] for item in last["status"]["results"]}["reason"]
    print(reason)
    assert reason.startswith("not enough traffic to say")
