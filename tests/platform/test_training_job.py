"""The manifest of the Job; tests/e2e/test_chain.py creates it in a cluster."""

import copy
from typing import Any

import pytest

from image_classifier.platform.training_job import describe_pod, job_manifest

SECURITY = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
STEP = {
    "name": "step-train",
    "image": "registry.example.org/trainer@sha256:11",
    "command": ["/tekton/bin/entrypoint"],
    "env": [
        {"name": "IMAGE_CLASSIFIER_BUDGET", "value": "3m"},
        {"name": "IMAGE_CLASSIFIER_RESULTS", "value": "/tekton/results"},
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "bucket", "key": "password"}}},
    ],
    "resources": {"limits": {"memory": "4Gi"}},
    "securityContext": SECURITY,
    "volumeMounts": [
        {"name": "work", "mountPath": "/work"},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "tekton-internal-bin", "mountPath": "/tekton/bin"},
        {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
    ],
}
POD: dict[str, Any] = {
    "metadata": {
        "name": "flowers-train-8h5xd-pod",
        "uid": "0-1-2",
        "labels": {"carto.run/workload-name": "flowers", "tekton.dev/taskRun": "flowers-train-8h5xd"},
    },
    "spec": {
        "serviceAccountName": "image-classifier-distributed",
        "containers": [{"name": "step-source"}, STEP],
        "volumes": [{"name": "work", "emptyDir": {}}],
    },
    "status": {"podIP": "10.0.0.7", "phase": "Running"},
}


@pytest.fixture
def job() -> dict[str, Any]:
    return job_manifest(copy.deepcopy(POD), processes=4, python="/usr/bin/python3")


def test_the_job_has_a_pod_for_each_process_but_the_first(job):
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 3, 3)


def test_the_pods_fetch_the_source_and_train_like_the_step(job):
    pod = job["spec"]["template"]["spec"]
    (source,), (train,) = pod["initContainers"], pod["containers"]
    assert source["command"][-1] == "source"
    assert train["command"] == ["/usr/bin/python3", "-m", "image_classifier.cli", "train"]
    for container in (source, train):
        assert {name: container[name] for name in ("image", "resources", "securityContext")} == {
            name: STEP[name] for name in ("image", "resources", "securityContext")
        }
        assert [mount["name"] for mount in container["volumeMounts"]] == ["work", "tmp"]
    assert [volume["name"] for volume in pod["volumes"]] == ["work", "tmp"]


def test_the_pods_know_the_first_one_write_no_results_and_get_secrets_by_reference(job):
    variables = {each["name"]: each for each in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert variables["MASTER_ADDR"]["value"] == "10.0.0.7"
    assert variables["WORLD_SIZE"]["value"] == "4"
    assert variables["PASSWORD"] == STEP["env"][2]
    assert "IMAGE_CLASSIFIER_RESULTS" not in variables
    assert "RANK" not in variables  # it is the index of the Job


def test_the_job_is_owned_by_the_first_pod_and_its_pods_have_no_token(job):
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Pod", "0-1-2")
    assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    assert job["metadata"]["labels"] == {"carto.run/workload-name": "flowers"}


def test_the_description_of_a_pod_says_why_it_does_not_run():
    unschedulable = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu"}
    pending = {"metadata": {"name": "a"}, "status": {"phase": "Pending", "conditions": [unschedulable]}}
    assert describe_pod(pending) == "a Pending (0/1 nodes: Insufficient cpu)"
    ended = {"name": "source", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
    failed = {
        "metadata": {"name": "b"},
        "status": {"phase": "Failed", "initContainerStatuses": [ended], "containerStatuses": []},
    }
    assert describe_pod(failed) == "b Failed (source Error)"
    assert describe_pod({"metadata": {"name": "c"}, "status": {"phase": "Running"}}) == "c Running"
