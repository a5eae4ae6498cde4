"""Faults of workloads, each with the cause that `why` must name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MISSING_DIGEST = f"@sha256:{'0' * 64}"


@dataclass(frozen=True)
class Fault:
    """A workload with a fault."""

    cause: str
    resource: str
    """"": the workload as a whole."""
    text: str
    """Part of the expected output."""
    arguments: tuple[str, ...] = ()
    """Of `tanzu apps workload create`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Templates: {image} is the server image's name, {mlflow} an image of another project, {version} a good version."""
    namespace: str = ""
    """Suffix of the namespace: "" is the developer's; the others lack something."""
    branch: str = "main"
    repository: str = "code"
    """A repository that the tests create, or any address."""


def pinned(cause: str, resource: str, text: str, *arguments: str, **params: Any) -> Fault:
    """A fault of a workload that pins an existing version, so that nothing is trained."""
    return Fault(cause, resource, text, arguments, {"model_version": "{version}", **params})


FAULTS_BEFORE_TRAINING = {
    "no-chain": Fault("no-supply-chain", "", "--type ml-image", ("--type", "web")),
    "no-repository": Fault("repository-missing", "source", "no repository", repository="no-such"),
    "no-branch": Fault("branch-missing", "source", "no-such-branch", branch="no-such-branch"),
    "no-host": Fault("source-unreachable", "source", "no-such-host", ("--git-repo", "http://no-such-host/a.git")),
    "no-secret": Fault(
        "secret-missing", "source", "no-such-secret", params={"source_credentials_secret": "no-such-secret"}
    ),
    "no-account": Fault("chain-account-missing", "", "--service-account", ("--service-account", "nobody")),
    "no-digest": Fault(
        "param-wrong", "server-image", "digest", params={"server_image": "{image}:latest"}, repository="empty"
    ),
    "no-param": Fault("param-unknown", "test", "bugdet", params={"bugdet": "5s"}),
    "no-image": Fault("image-missing", "server-image", "0" * 64, params={"server_image": "{image}" + MISSING_DIGEST}),
    "no-registry": Fault(
        "image-not-pulled",
        "test",
        "no-such-registry.example.org",
        params={"trainer_image": "no-such-registry.example.org/trainer" + MISSING_DIGEST},
    ),
    "no-command": Fault(
        "image-of-something-else",
        "server-image",
        "not an image of this project",
        params={"server_image": "{mlflow}"},
        repository="empty",
    ),
    "no-code": Fault("not-the-project", "test", "no src/image_classifier", repository="empty"),
    "failing": Fault("test-failed", "test", "tests/test_one.py::test_False", repository="failing"),
    "privileged": Fault(
        "pod-security",
        "trainer-image",
        "privileged",
        params={"trainer_image": None, "dockerfile": "./Dockerfile", "builder_image": "{mlflow}"},
    ),
    "unprepared": Fault("no-permission", "source", "config/namespace", namespace="bare"),
    "no-quota": Fault("quota-exceeded", "server-image", "no-pods", namespace="full"),
    "no-steps": Fault("service-account-missing", "test", "image-classifier-steps", namespace="account"),
    "no-task": Fault("task-missing", "test", "image-classifier-test", namespace="task"),
}
FAULTS_OF_TRAINING = {
    "no-number": Fault("param-not-usable", "train", "budget is 'abc'", params={"budget": "abc"}),
    "no-data": Fault("data-missing", "train", "no-such-data", params={"data": "no-such-data"}),
    "no-mlflow": Fault(
        "tracking-address-wrong", "train", "no-such-mlflow", params={"tracking_uri": "http://no-such-mlflow:5000"}
    ),
    "mlflow-down": Fault(
        "mlflow-down", "train", "mlflow-down", params={"tracking_uri": "http://mlflow-down:5000", "registry_wait": "1s"}
    ),
    "too-big": Fault(
        "out-of-memory", "train", "memory", ("--param-yaml", 'training_resources={"limits":{"memory":"100Mi"}}')
    ),
    "no-node": Fault(
        "no-room", "train", "Insufficient cpu", ("--param-yaml", 'training_resources={"requests":{"cpu":"64"}}')
    ),
    "in-two": Fault("distributed-not-allowed", "train", "config/distributed", params={"training_processes": "2"}),
}
FAULTS_OF_SERVING = {
    "no-version": pinned("version-missing", "candidate", "no version 99", model_version="99"),
    "no-threads": pinned("param-not-usable", "candidate", "threads is 'abc'", threads="abc"),
    "other-port": pinned("never-ready", "candidate", "does not become ready", "--env", "IMAGE_CLASSIFIER_PORT=9999"),
    "own-port": pinned("refused-by-knative", "candidate", "PORT", "--env", "PORT=1"),
    "small": pinned("out-of-memory", "candidate", "memory", "--request-memory", "20Mi", "--limit-memory", "20Mi"),
    "slow": pinned("candidate-slow", "accept", "max_latency", max_latency="1ms"),
}
DAMAGED = pinned("model-damaged", "candidate", "are damaged")
"""To be planted last, as it damages the model of the others."""
REFUSED = Fault(
    "refused",
    "train",
    "the gate refused the new model",
    params={"min_accuracy": "0.9999", "seed": "1", "model_version": None},
)
"""Of a workload with a live version."""
FAULTS = {**FAULTS_BEFORE_TRAINING, **FAULTS_OF_TRAINING, **FAULTS_OF_SERVING, "damaged": DAMAGED, "refused": REFUSED}
