"""Fixtures of the end-to-end tests (`make e2e`), which use the cluster that the environment names."""

import pytest

from tests.e2e.cluster import (
    BRIEF,
    VARIABLES,
    Cluster,
    Repository,
    copy_project,
    environment,
    make_repository,
    new_name,
)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster with the supply chain installed."""
    variables = environment()
    missing = [f"{name} ({what})" for name, what in VARIABLES.items() if not variables.get(name)]
    if missing:
        pytest.fail(f"set {'; '.join(missing)}")
    cluster = Cluster(variables, variables.get("E2E_NAMESPACE", "image-classifier-e2e"))
    if variables.get("E2E_TYPE"):
        cluster.prepare("restricted")
    else:
        cluster.install()
    return cluster


@pytest.fixture(scope="session")
def repository(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The project in a repository that the cluster can fetch."""
    repository = make_repository(cluster.environment, "flowers", tmp_path_factory.mktemp("flowers"))
    copy_project(repository.folder)
    repository.commit("The project")
    return repository


@pytest.fixture(scope="session")
def flowers(cluster: Cluster, repository: Repository) -> str:
    """A workload with a briefly trained model, which longer training easily improves."""
    name = new_name("flowers")
    cluster.create(name, "--git-repo", repository.address, "--git-branch", "main", **BRIEF)
    return name
