"""What must be true of the registry whatever broke: no half-written version, no run that never ends."""

from mlflow import MlflowClient

from tests.e2e.cluster import Cluster


def inconsistencies(cluster: Cluster, name: str) -> list[str]:
    """What is wrong in the registry of a workload, and between it and what serves; nothing: []."""
    served = cluster.outputs(name, "accept").get("config", "")
    with cluster.tracking_server() as address:
        return _inconsistencies(MlflowClient(address), name, served)


def _inconsistencies(client: MlflowClient, name: str, served: str) -> list[str]:
    wrong = []
    versions = client.search_model_versions(f"name = '{name}'")
    for version in versions:
        if version.status != "READY":
            wrong.append(f"version {version.version} is {version.status}")
        if not version.run_id or client.get_run(version.run_id).info.status != "FINISHED":
            wrong.append(f"the run of version {version.version} is not finished")
    aliases = client.get_registered_model(name).aliases
    numbers = {version.version for version in versions}
    wrong += [
        f"{alias} is version {number}, which is not there"
        for alias, number in aliases.items()
        if number not in numbers
    ]
    if f"models:/{name}/{aliases.get('champion')}" not in served:
        wrong.append(f"the champion is version {aliases.get('champion')}; what serves is {served}")
    return wrong
