"""Faults to plant, each with the cause that `why` must name, and where."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NOWHERE = f"@sha256:{'0' * 64}"


@dataclass(frozen=True)
class Fault:
    """A workload with something wrong."""

    cause: str
    resource: str
    """"": the workload as a whole."""
    said: str
    """Words that the answer must have."""
    arguments: tuple[str, ...] = ()
    """Of `tanzu apps workload create`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """{image} is the server image's name, {mlflow} the image of MLflow, which is none of the chain's, {version} that
    of a good model."""
    place: str = ""
    """Which namespace: "" is the developer's, of the others something is missing."""
    branch: str = "main"
    repository: str = "code"
    """One that the tests make, or any address."""


def pinned(cause: str, resource: str, said: str, *arguments: str, **params: Any) -> Fault:
    """A fault of a workload that serves a model that is there, so that nothing is trained."""
    return Fault(cause, resource, said, arguments, {"model_version": "{version}", **params})


OF_THE_START = {
    "no-chain": Fault("no-supply-chain", "", "--type ml-image", ("--type", "web")),
    "no-repository": Fault("repository-missing", "source", "no repository", repository="no-such"),
    "no-branch": Fault("branch-missing", "source", "no-such-branch", branch="no-such-branch"),
    "no-host": Fault(
        "source-unreachable", "source", "no-such-host", ("--git-repo", "http://no-such-host/a.git")
    ),
    "no-secret": Fault(
        "secret-missing", "source", "no-such-secret", params={"source_credentials_secret": "no-such-secret"}
    ),
    "no-account": Fault("chain-account-missing", "", "--service-account", ("--service-account", "nobody")),
    "no-digest": Fault(
        "param-wrong",
        "server-image",
        "by its digest",
        params={"server_image": "{image}:latest"},
        repository="empty",
    ),
    "no-param": Fault("param-unknown", "test", "bugdet", params={"bugdet": "5s"}),
    "no-image": Fault(
        "image-missing", "server-image", "0" * 64, params={"server_image": "{image}" + NOWHERE}
    ),
    "no-registry": Fault(
        "image-not-pulled",
        "test",
        "no-such-registry.example.org",
        params={"trainer_image": "no-such-registry.example.org/trainer" + NOWHERE},
    ),
    "no-command": Fault(
        "image-of-something-else",
        "server-image",
        "not one of this project",
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
    "unprepared": Fault("no-permission", "source", "config/namespace", place="bare"),
    "no-quota": Fault("quota-exceeded", "server-image", "no-pods", place="full"),
    "no-steps": Fault("service-account-missing", "test", "image-classifier-steps", place="account"),
    "no-task": Fault("task-missing", "test", "image-classifier-test", place="task"),
}
OF_TRAINING = {
    "no-number": Fault("param-not-usable", "train", "budget is 'abc'", params={"budget": "abc"}),
    "no-data": Fault("data-missing", "train", "no-such-data", params={"data": "no-such-data"}),
    "no-mlflow": Fault(
        "tracking-address-wrong",
        "train",
        "no-such-mlflow",
        params={"tracking_uri": "http://no-such-mlflow:5000"},
    ),
    "mlflow-down": Fault(
        "mlflow-down",
        "train",
        "mlflow-down",
        params={"tracking_uri": "http://mlflow-down:5000", "registry_wait": "1s"},
    ),
    "too-big": Fault(
        "out-of-memory",
        "train",
        "memory",
        ("--param-yaml", 'training_resources={"limits":{"memory":"100Mi"}}'),
    ),
    "no-node": Fault(
        "no-room",
        "train",
        "Insufficient cpu",
        ("--param-yaml", 'training_resources={"requests":{"cpu":"64"}}'),
    ),
    "in-two": Fault(
        "distributed-not-allowed", "train", "config/distributed", params={"training_processes": "2"}
    ),
}
OF_SERVING = {
    "no-version": pinned("version-missing", "candidate", "no version 99", model_version="99"),
    "no-threads": pinned("param-not-usable", "candidate", "threads is 'abc'", threads="abc"),
    "other-port": pinned("never-ready", "candidate", "never ready", "--env", "IMAGE_CLASSIFIER_PORT=9999"),
    "own-port": pinned("refused-by-knative", "candidate", "PORT", "--env", "PORT=1"),
    "small": pinned(
        "out-of-memory", "candidate", "memory", "--request-memory", "20Mi", "--limit-memory", "20Mi"
    ),
    "slow": pinned("candidate-slow", "accept", "max_latency", max_latency="1ms"),
}
DAMAGED = pinned("model-damaged", "candidate", "are not those that were registered")
"""For when nothing else needs the model any more."""
REFUSED = Fault(
    "refused",
    "train",
    "below the floor",
    params={"min_accuracy": "0.9999", "seed": "1", "model_version": None},
)
"""Of a workload that serves already."""
FAULTS = {**OF_THE_START, **OF_TRAINING, **OF_SERVING, "damaged": DAMAGED, "refused": REFUSED}
