"""Consistency of the registry: no half-written versions, no unfinished runs, and the champion is live."""

from mlflow import MlflowClient

from tests.e2e.cluster import Cluster


def inconsistencies(cluster: Cluster, name: str) -> list[str]:
    """The inconsistencies in a workload's registry, and between it and the live version."""
    live = cluster.outputs(name, "accept").get("config", "")
    with cluster.tracking_server() as address:
        return _inconsistencies(MlflowClient(address), name, live)


def _inconsistencies(client: MlflowClient, name: str, live: str) -> list[str]:
    found = []
    versions = client.search_model_versions(f"name = '{name}'")
    for version in versions:
        if version.status != "READY":
            found.append(f"version {version.version} is {version.status}")
        if not version.run_id or client.get_run(version.run_id).info.status != "FINISHED":
            found.append(f"the run of version {version.version} is not finished")
    aliases = client.get_registered_model(name).aliases
    numbers = {version.version for version in versions}
    found += [
        f"{alias} is version {number}, which does not exist"
        for alias, number in aliases.items()
        if number not in numbers
    ]
    if f"models:/{name}/{aliases.get('champion')}" not in live:
        found.append(f"the champion is version {aliases.get('champion')}, but live is {live}")
    return found
