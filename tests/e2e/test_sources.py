"""Sources in a sub-folder, images built in the cluster, and two pushes at once. Faulty sources are in test_why.py."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.e2e.cluster import BRIEF, Cluster, Repository, copy_project, make_repository, run, wait
from tests.e2e.user import predict, wait_for_message, wait_until_ready

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def git(repository: Repository, branch: str = "main") -> tuple[str, ...]:
    return "--git-repo", repository.address, "--git-branch", branch


def test_a_project_in_a_sub_folder_needs_a_sub_path(cluster: Cluster, tmp_path: Path):
    other = make_repository(cluster.environment, "folders", tmp_path)
    with cluster.workload("folders", *git(other), **BRIEF) as name:
        print(wait_for_message(cluster, name, "test", "no src/image_classifier"))
        copy_project(tmp_path / "models" / "digits")
        revision = other.commit("The project in a folder")
        cluster.change(name, "--sub-path", "models/digits", **BRIEF)
        wait("its tests", lambda: revision in cluster.outputs(name, "test").get("revision", ""))


def test_an_image_is_built_in_the_cluster_if_the_namespace_allows_it(cluster: Cluster, repository: Repository):
    names = ("E2E_REGISTRY", "E2E_BUILDER_IMAGE", "E2E_PYTHON_IMAGE")
    registry, builder, python = (cluster.environment.get(name) for name in names)
    if not registry or not builder:
        pytest.skip("needs E2E_REGISTRY and E2E_BUILDER_IMAGE")
    base = ("--build-env", f"PYTHON_IMAGE={python}") if python else ()
    building = Cluster(cluster.environment, f"{cluster.namespace}-build")
    building.prepare("privileged")
    params = {
        "server_image": None,
        "dockerfile": "./Dockerfile",
        "builder_image": builder,
        "registry": registry,
        "insecure_registry": "true",
    }
    with building.workload("built", *git(repository), *base, **BRIEF, **params) as name:
        print(wait_until_ready(building, name, seconds=800))
        assert predict(building.url(name)) == "1"
        assert building.outputs(name, "accept")["config"].count(f"{registry}/{name}-") == 1
    run("kubectl", "delete", "namespace", building.namespace, "--wait=false")


SLOW = {**BRIEF, "budget": "60s", "max_accuracy_drop": "0.05", "gate_policy": "refresh"}
"""The first training still runs when the second one starts, and the gate accepts both."""
TRAINING_CODE = "src/image_classifier/training/plan.py"


def test_of_two_pushes_at_once_each_run_judges_its_own_version(cluster: Cluster, tmp_path: Path):
    pushed = make_repository(cluster.environment, "pushes", tmp_path)
    copy_project(tmp_path)
    pushed.commit("The project")
    with cluster.workload("pushes", *git(pushed), **SLOW) as name:
        wait_until_ready(cluster, name, seconds=600)
        revisions = []
        for number in (1, 2):
            code = (tmp_path / TRAINING_CODE).read_text() + f"# Push {number}.\n"
            revisions.append(pushed.commit(f"Push {number}", **{TRAINING_CODE: code}))
            wait(f"the training of push {number}", lambda: training_of(cluster, name, revisions[-1]), 300)
        first, second = (finished_training(cluster, name, revision) for revision in revisions)
        assert second["status"]["startTime"] < first["status"]["completionTime"]
        wait("the end of the chain", lambda: is_settled(cluster, name), 400)
        versions = [judged_version(cluster, name, run) for run in (first, second)]
        print(f"the pushes made versions {versions}")
        assert sorted(versions) == ["2", "3"]
        history = json.loads(cluster.image_classifier("history", "--name", name, "--json"))
        print(json.dumps(history, indent=1))
        with cluster.tracking_server() as address:
            client = MlflowClient(address)
            tags = {number: client.get_model_version(name, number).tags for number in ("1", *versions)}
        assert all(tags[number]["verdict"] in ("accepted", "held", "refused") for number in versions)
        # Every champion was judged against the version that it replaced.
        promotions = [event for event in reversed(history) if event["action"] == "promoted"]
        replaced = [str(event["from_version"] or "none") for event in promotions]
        assert [tags[str(event["version"])]["judged_against"] for event in promotions] == replaced
        assert predict(cluster.url(name)) == str(promotions[-1]["version"])


def training_of(cluster: Cluster, name: str, revision: str) -> Any:
    """The run of `train` for a commit, None if there is none yet."""
    for item in cluster.runs(name, "train"):
        params = {param["name"]: param["value"] for param in item["spec"]["params"]}
        if revision in params["source_revision"]:
            return item
    return None


def finished_training(cluster: Cluster, name: str, revision: str) -> Any:
    wait("its end", lambda: "completionTime" in training_of(cluster, name, revision)["status"], 400)
    return training_of(cluster, name, revision)


def is_settled(cluster: Cluster, name: str) -> bool:
    """Whether no candidate is tried for ten seconds."""
    for _ in range(10):
        if not all("completionTime" in run.get("status", {}) for run in cluster.runs(name, "accept")):
            return False
        time.sleep(1)
    return True


def judged_version(cluster: Cluster, name: str, run: Any) -> str:
    """The version that a run of `train` registered, judged, and named in its results."""
    registered = re.search(rf"registered as models:/{name}/(\d+)", cluster.log(run, "register"))
    judged = re.search(r"version (\d+) is (accepted|held|refused)", cluster.log(run, "gate"))
    assert registered
    assert judged
    assert judged[1] == registered[1]
    results = {result["name"]: result["value"] for result in run["status"]["results"]}
    assert results["verdict"] == judged[2]
    assert (results["model-version"] == registered[1]) == (judged[2] == "accepted")
    return str(registered[1])
