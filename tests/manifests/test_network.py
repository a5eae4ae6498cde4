"""Each NetworkPolicy selects the pods that it should, by the labels that these pods have.

Whether a policy is enforced depends on the cluster's network plug-in, and is not tested here.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from image_classifier.platform.training_job import job_manifest
from tests.manifests.write_golden import GOLDEN

CONFIG = Path(__file__).parents[2] / "config"
ALL_PODS = {"default-deny", "names"}
RUNS = {"test": "test", "train": "train", "train-kpack": "train", "accept": "accept", "image-build": "build"}
"""A golden case of each run, and the policy of its pod."""


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def policies(folder: str) -> dict[str, Any]:
    objects = [read(path) for path in sorted((CONFIG / folder).glob("*-policy.yaml"))]
    return {item["metadata"]["name"].removeprefix("image-classifier-"): item["spec"] for item in objects}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether Kubernetes would select labels; an empty selector selects everything."""
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
    """Labels of the pod of a run: those of the run, and one that Tekton adds."""
    rendered = read(GOLDEN / case / "expected.yaml")
    return {**rendered["metadata"]["labels"], "tekton.dev/task": rendered["spec"]["taskRef"]["name"]}


def server_labels(case: str) -> dict[str, str]:
    """Labels of a server's pod: those of the InferenceService, and those that KServe adds."""
    metadata = read(GOLDEN / case / "expected.yaml")["metadata"]
    return {**metadata["labels"], "serving.kserve.io/inferenceservice": metadata["name"], "component": "predictor"}


@pytest.mark.parametrize(("case", "policy"), RUNS.items())
def test_the_pod_of_a_step_is_selected_by_the_policy_of_that_step_only(case, policy):
    assert selecting(run_labels(case)) == {*ALL_PODS, policy}


def test_the_pod_that_pulls_the_server_image_may_connect_to_nothing():
    assert selecting(run_labels("image-given-server")) == ALL_PODS


@pytest.mark.parametrize("case", ["candidate", "candidate-kpack", "serve", "serve-full"])
def test_a_server_is_selected_by_the_policy_of_servers(case):
    assert selecting(server_labels(case)) == {*ALL_PODS, "server"}


def test_further_pods_of_a_training_are_selected_by_the_policy_of_the_training():
    pod = {
        "metadata": {"name": "flowers-train", "uid": "1", "labels": run_labels("train")},
        "spec": {
            "containers": [{"name": "step-train", "image": "trainer", "volumeMounts": []}],
            "serviceAccountName": "image-classifier-distributed",
        },
        "status": {"podIP": "10.0.0.1"},
    }
    labels = job_manifest(pod, processes=2, python="python")["spec"]["template"]["metadata"]["labels"]
    assert selecting(labels) == {*ALL_PODS, "train"}


def test_a_build_of_kpack_is_selected_by_its_policy_and_a_foreign_pod_by_none():
    assert selecting({"kpack.io/build": "flowers-server-build-1"}) == {*ALL_PODS, "kpack"}
    assert selecting({"app": "something-else"}) == ALL_PODS


def test_all_other_traffic_is_denied():
    for folder in ("network", "network-mlflow"):
        denial = policies(folder)["default-deny"]
        assert denial == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def allowed(spec: dict[str, Any], namespace: str, labels: dict[str, str]) -> set[object]:
    """The ports of pods with these labels in a namespace to which a policy allows connections."""
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
def test_a_step_that_uses_the_registry_and_a_server_may_connect_to_mlflow(policy):
    pod = read(CONFIG / "mlflow" / "deployment.yaml")["spec"]["template"]
    (port,) = [item["containerPort"] for item in pod["spec"]["containers"][0]["ports"]]
    namespace = read(CONFIG / "mlflow" / "namespace.yaml")["metadata"]["name"]
    assert allowed(policies("network")[policy], namespace, pod["metadata"]["labels"]) == {port}


def test_the_tests_of_a_source_may_connect_only_to_flux():
    spec = policies("network")["test"]
    assert allowed(spec, "flux-system", {"app": "source-controller"}) == {9090}
    assert len(spec["egress"]) == 1


def test_a_server_may_connect_only_to_mlflow():
    (rule,) = policies("network")["server"]["egress"]
    (peer,) = rule["to"]
    assert peer["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "mlflow"}}


def test_mlflow_accepts_connections_only_from_labelled_namespaces():
    spec = policies("network-mlflow")["mlflow"]
    pod = read(CONFIG / "mlflow" / "deployment.yaml")["spec"]["template"]
    assert selects(spec["podSelector"], pod["metadata"]["labels"])
    (rule,) = spec["ingress"]
    (peer,) = rule["from"]
    assert selects(peer["namespaceSelector"], {"image-classifier-registry": "true"})
    assert not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": "stranger"})
    assert [port["port"] for port in rule["ports"]] == [item["name"] for item in pod["spec"]["containers"][0]["ports"]]
