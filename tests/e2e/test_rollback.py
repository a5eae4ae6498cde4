"""Back to what served before, by the command, on a cluster: how long it takes, what is lost, and what is recorded."""

import json
import time

import pytest

from tests.e2e.cluster import Cluster, CommandError, Repository
from tests.e2e.user import Load, answers, ask, settled, unwell

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
FIRST = {"budget": "1.5s", "min_accuracy": "0.3"}
MOST_SECONDS = 60


@pytest.fixture(scope="module")
def photos(cluster: Cluster, repository: Repository):
    """A workload whose second version serves."""
    source = ("--git-repo", repository.address, "--git-branch", "main")
    with cluster.workload("photos", *source, **FIRST) as name:
        settled(cluster, name)
        cluster.change(name, budget="8s", seed="2")
        answers(cluster.url(name), "2", 300)
        settled(cluster, name)
        yield name


def timed(cluster: Cluster, name: str, *arguments: str, version: str) -> str:
    """Run the command under load; gives what it printed, once nothing was lost and it was in time."""
    started = time.monotonic()
    with Load(cluster.url(name)) as load:
        printed = cluster.image_classifier(
            "rollback", name, "--namespace", cluster.namespace, "--name", name, *arguments
        )
        took = time.monotonic() - started
        assert ask(cluster.url(name)) == version
    print(printed)
    print(f"{took:.0f} s, {load}")
    assert load.lost == []
    assert took < MOST_SECONDS
    return printed


def events(cluster: Cluster, name: str) -> list[dict[str, object]]:
    return list(json.loads(cluster.image_classifier("history", "--name", name, "--json")))


def test_the_pair_before_comes_back_in_time_without_a_lost_request(cluster: Cluster, photos: str):
    printed = timed(cluster, photos, "--reason", "worse on sevens", version="1")
    assert "version 2" in printed
    assert "test_accuracy" in printed
    last = events(cluster, photos)[0]
    assert (last["action"], last["version"], last["from_version"]) == ("rolled-back", 1, 2)
    assert last["reason"] == "worse on sevens"
    assert last["image"] == cluster.environment["E2E_SERVER_IMAGE"]
    assert last["data_digest"]
    print(unwell(cluster, photos, "accept", "worse on sevens"))


def test_a_roll_back_is_undone(cluster: Cluster, photos: str):
    cluster.image_classifier("rollback", photos, "--namespace", cluster.namespace, "--release")
    answers(cluster.url(photos), "2", 200)
    settled(cluster, photos)


def test_a_version_is_pinned_in_time_and_stays(cluster: Cluster, photos: str):
    timed(cluster, photos, "--to", "1", "--reason", "for the fair", version="1")
    with pytest.raises(CommandError, match="version 1 is pinned"):
        cluster.image_classifier("rollback", photos, "--namespace", cluster.namespace)
    print(cluster.image_classifier("history", "--name", photos))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no-such-workload",), "there is no workload no-such-workload"),
        (("{photos}", "--to", "99"), "has no version 99"),
        (("{photos}", "--to", "1"), "version 1 serves already"),
    ],
)
def test_what_cannot_be_done_is_named(cluster: Cluster, photos: str, arguments, said):
    given = [argument.format(photos=photos) for argument in arguments]
    with pytest.raises(CommandError, match=said):
        cluster.image_classifier("rollback", *given, "--namespace", cluster.namespace)
