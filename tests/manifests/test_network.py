"""Which pods each NetworkPolicy means, against the labels that these pods have.

Whether a policy is enforced depends on the cluster's network plug-in, and is not tested here.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from image_classifier.platform.training_job import job_like
from tests.manifests.write_golden import GOLDEN

CONFIG = Path(__file__).parent.parent.parent / "config"
EVERYBODY = {"default-deny", "names"}
TASKS = {
    "test": "test",
    "train": "train",
    "train-kpack": "train",
    "accept": "accept",
    "image-build": "build",
}
"""A rendering of each run, and the policy that gives its pod what it needs."""


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def policies(folder: str) -> dict[str, Any]:
    read_ = [read(path) for path in sorted((CONFIG / folder).glob("*-policy.yaml"))]
    return {item["metadata"]["name"].removeprefix("image-classifier-"): item["spec"] for item in read_}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """As Kubernetes decides it; a selector of nothing selects everything."""
    operators = {
        "In": lambda item: labels.get(item["key"]) in item["values"],
        "Exists": lambda item: item["key"] in labels,
    }
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        operators[item["operator"]](item) for item in selector.get("matchExpressions", [])
    )


def selecting(labels: dict[str, str]) -> set[str]:
    return {name for name, spec in policies("network").items() if selects(spec["podSelector"], labels)}


def run_labels(case: str) -> dict[str, str]:
    """Of the pod of a run: those of the run, and what Tekton adds."""
    rendered = read(GOLDEN / case / "expected.yaml")
    return {**rendered["metadata"]["labels"], "tekton.dev/task": rendered["spec"]["taskRef"]["name"]}


def server_labels(case: str) -> dict[str, str]:
    """Of a server's pod: those of the inference service, and what KServe adds."""
    metadata = read(GOLDEN / case / "expected.yaml")["metadata"]
    return {
        **metadata["labels"],
        "serving.kserve.io/inferenceservice": metadata["name"],
        "component": "predictor",
    }


@pytest.mark.parametrize(("case", "policy"), TASKS.items())
def test_the_pod_of_a_step_is_given_what_that_step_needs_and_no_more(case, policy):
    assert selecting(run_labels(case)) == {*EVERYBODY, policy}


def test_the_pod_that_only_pulls_the_server_image_is_given_nothing():
    assert selecting(run_labels("image-given-server")) == EVERYBODY


@pytest.mark.parametrize("case", ["candidate", "candidate-kpack", "serve", "serve-full"])
def test_a_server_is_given_what_servers_need(case):
    assert selecting(server_labels(case)) == {*EVERYBODY, "server"}


def test_pods_that_train_along_are_given_what_training_needs():
    pod = {
        "metadata": {"name": "flowers-train", "uid": "1", "labels": run_labels("train")},
        "spec": {
            "containers": [{"name": "step-train", "image": "trainer", "volumeMounts": []}],
            "serviceAccountName": "image-classifier-distributed",
        },
        "status": {"podIP": "10.0.0.1"},
    }
    labels = job_like(pod, processes=2, python="python")["spec"]["template"]["metadata"]["labels"]
    assert selecting(labels) == {*EVERYBODY, "train"}


def test_a_pod_of_kpack_is_given_what_builds_need_and_one_of_a_stranger_nothing():
    assert selecting({"kpack.io/build": "flowers-server-build-1"}) == {*EVERYBODY, "kpack"}
    assert selecting({"app": "something-else"}) == EVERYBODY


def test_every_pod_is_denied_what_nothing_allows():
    for folder in ("network", "network-mlflow"):
        denial = policies(folder)["default-deny"]
        assert denial == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def allowed(spec: dict[str, Any], namespace: str, labels: dict[str, str]) -> set[object]:
    """The ports on which the policy lets its pods ask a pod with these labels of that namespace."""
    return {
        port["port"]
        for rule in spec.get("egress", [])
        for peer in rule["to"]
        if "namespaceSelector" in peer
        and selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
        and selects(peer.get("podSelector", {}), labels)
        for port in rule["ports"]
    }


@pytest.mark.parametrize("policy", ["train", "accept", "server"])
def test_who_records_or_fetches_reaches_mlflow_at_its_port(policy):
    pod = read(CONFIG / "mlflow" / "deployment.yaml")["spec"]["template"]
    (port,) = [item["containerPort"] for item in pod["spec"]["containers"][0]["ports"]]
    namespace = read(CONFIG / "mlflow" / "namespace.yaml")["metadata"]["name"]
    assert allowed(policies("network")[policy], namespace, pod["metadata"]["labels"]) == {port}


def test_the_tests_of_a_source_reach_the_source_and_nothing_else():
    spec = policies("network")["test"]
    assert allowed(spec, "flux-system", {"app": "source-controller"}) == {9090}
    assert len(spec["egress"]) == 1


def test_a_server_reaches_nothing_but_mlflow():
    (rule,) = policies("network")["server"]["egress"]
    assert all("namespaceSelector" in peer for peer in rule["to"])


def test_mlflow_is_reached_from_labelled_namespaces_alone():
    spec = policies("network-mlflow")["mlflow"]
    pod = read(CONFIG / "mlflow" / "deployment.yaml")["spec"]["template"]
    assert selects(spec["podSelector"], pod["metadata"]["labels"])
    (rule,) = spec["ingress"]
    (peer,) = rule["from"]
    assert selects(peer["namespaceSelector"], {"image-classifier-registry": "true"})
    assert not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": "stranger"})
    assert [port["port"] for port in rule["ports"]] == [
        item["name"] for item in pod["spec"]["containers"][0]["ports"]
    ]
