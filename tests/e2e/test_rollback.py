"""The command `rollback` on a cluster: its duration, lost requests, and the recorded events."""

import json
import time

import pytest

from tests.e2e.cluster import BRIEF, Cluster, CommandError, Repository
from tests.e2e.user import Load, predict, wait_for_message, wait_for_version, wait_until_ready

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
FIRST = BRIEF
MAX_SECONDS = 60


@pytest.fixture(scope="module")
def photos(cluster: Cluster, repository: Repository):
    """A workload whose second version is live."""
    source = ("--git-repo", repository.address, "--git-branch", "main")
    with cluster.workload("photos", *source, **FIRST) as name:
        wait_until_ready(cluster, name)
        cluster.change(name, budget="8s", seed="2")
        wait_for_version(cluster.url(name), "2", 300)
        wait_until_ready(cluster, name)
        yield name


def roll_back(cluster: Cluster, name: str, *arguments: str, version: str) -> str:
    """Roll back under load, in time and without lost requests; returns the output."""
    started = time.monotonic()
    with Load(cluster.url(name)) as load:
        output = cluster.image_classifier(
            "rollback", name, "--namespace", cluster.namespace, "--name", name, *arguments
        )
        seconds = time.monotonic() - started
        assert predict(cluster.url(name)) == version
    print(output)
    print(f"{seconds:.0f} s, {load}")
    assert load.lost == []
    assert seconds < MAX_SECONDS
    return output


def events(cluster: Cluster, name: str) -> list[dict[str, object]]:
    return list(json.loads(cluster.image_classifier("history", "--name", name, "--json")))


def test_the_previous_pair_is_restored_in_time_without_lost_requests(cluster: Cluster, photos: str):
    output = roll_back(cluster, photos, "--reason", "worse on sevens", version="1")
    assert "version 2" in output
    assert "test_accuracy" in output
    last = events(cluster, photos)[0]
    assert (last["action"], last["version"], last["from_version"]) == ("rolled-back", 1, 2)
    assert last["reason"] == "worse on sevens"
    assert last["image"] == cluster.environment["E2E_SERVER_IMAGE"]
    assert last["data_digest"]
    print(wait_for_message(cluster, photos, "accept", "worse on sevens"))


def test_a_rollback_can_be_undone(cluster: Cluster, photos: str):
    cluster.image_classifier("rollback", photos, "--namespace", cluster.namespace, "--release")
    wait_for_version(cluster.url(photos), "2", 200)
    wait_until_ready(cluster, photos)


def test_a_version_is_pinned_in_time_and_stays(cluster: Cluster, photos: str):
    roll_back(cluster, photos, "--to", "1", "--reason", "for the fair", version="1")
    with pytest.raises(CommandError, match="version 1 is pinned"):
        cluster.image_classifier("rollback", photos, "--namespace", cluster.namespace)
    print(cluster.image_classifier("history", "--name", photos))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such-workload",), "there is no workload no-such-workload"),
        (("{photos}", "--to", "99"), "has no version 99"),
        (("{photos}", "--to", "1"), "version 1 is already live"),
    ],
)
def test_an_impossible_rollback_is_an_error(cluster: Cluster, photos: str, arguments, message):
    arguments = [argument.format(photos=photos) for argument in arguments]
    with pytest.raises(CommandError, match=message):
        cluster.image_classifier("rollback", *arguments, "--namespace", cluster.namespace)
