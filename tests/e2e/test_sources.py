"""Sources in a sub-folder, and images built in the cluster. Faulty sources are in test_why.py."""

from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Repository, copy_project, make_repository, run, wait
from tests.e2e.user import predict, wait_for_message, wait_until_ready

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
QUICK = {"budget": "2s"}


def git(repository: Repository, branch: str = "main") -> tuple[str, ...]:
    return "--git-repo", repository.address, "--git-branch", branch


def test_a_project_in_a_sub_folder_needs_a_sub_path(cluster: Cluster, tmp_path: Path):
    other = make_repository(cluster.environment, "folders", tmp_path)
    with cluster.workload("folders", *git(other), **QUICK) as name:
        print(wait_for_message(cluster, name, "test", "no src/image_classifier"))
        copy_project(tmp_path / "models" / "digits")
        revision = other.commit("The project in a folder")
        cluster.change(name, "--sub-path", "models/digits", **QUICK)
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
    with building.workload("built", *git(repository), *base, **QUICK, **params) as name:
        print(wait_until_ready(building, name, seconds=800))
        assert predict(building.url(name)) == "1"
        assert building.outputs(name, "accept")["config"].count(f"{registry}/{name}-") == 1
    run("kubectl", "delete", "namespace", building.namespace, "--wait=false")
