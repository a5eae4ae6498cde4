"""Batch scoring in the cluster with the live model."""

import json

import pytest
import yaml

from tests.e2e.cluster import Cluster, wait
from tests.e2e.user import wait_until_ready

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_the_scoring_task_runs_in_a_restricted_namespace(cluster: Cluster, flowers: str):
    wait_until_ready(cluster, flowers)
    params = {
        "trainer_image": cluster.environment["E2E_TRAINER_IMAGE"],
        "name": flowers,
        "tracking_uri": "http://mlflow.mlflow:5000",
        "data": "digits",
        "to": "/work/scores",
        "score_processes": "2",
    }
    run = {
        "apiVersion": "tekton.dev/v1",
        "kind": "TaskRun",
        "metadata": {"generateName": "score-"},
        "spec": {
            "serviceAccountName": "image-classifier-steps",
            "taskRef": {"name": "image-classifier-score"},
            "params": [{"name": name, "value": value} for name, value in params.items()],
        },
    }
    name = cluster.kubectl("create", "-f", "-", "-o", "name", text=yaml.safe_dump(run)).strip()

    def is_finished() -> bool:
        conditions = cluster.get(name).get("status", {}).get("conditions", [{}])
        return conditions[0].get("status") in ("True", "False")

    wait("the scores", is_finished)
    status = cluster.get(name)["status"]
    results = {item["name"]: item["value"] for item in status["results"]}
    assert results["verdict"] == "scored", json.dumps(status)
    assert (results["images"], results["unread"]) == ("1797", "0")
    cluster.kubectl("delete", name)
