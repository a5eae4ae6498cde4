"""Fixtures of the end-to-end tests: `make e2e`, against the cluster that the environment names."""

import pytest

from tests.e2e.cluster import (
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
    """The cluster with the chain installed."""
    given = environment()
    missing = [f"{name} ({what})" for name, what in VARIABLES.items() if not given.get(name)]
    if missing:
        pytest.fail(f"set {'; '.join(missing)}")
    cluster = Cluster(given, given.get("E2E_NAMESPACE", "image-classifier-e2e"))
    if given.get("E2E_TYPE"):
        cluster.prepare("restricted")
    else:
        cluster.install()
    return cluster


@pytest.fixture(scope="session")
def repository(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The project, in a repository that the cluster reads."""
    made = make_repository(cluster.environment, "flowers", tmp_path_factory.mktemp("flowers"))
    copy_project(made.folder)
    made.commit("The project")
    return made


@pytest.fixture(scope="session")
def flowers(cluster: Cluster, repository: Repository) -> str:
    """A workload that was taken from its source to an answering URL, with a model that is easily bettered."""
    name = new_name("flowers")
    cluster.create(
        name, "--git-repo", repository.address, "--git-branch", "main", budget="1.5s", min_accuracy="0.3"
    )
    return name
