"""Distributed training in the cluster: an indexed Job whose pods train together with this pod."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from image_classifier.errors import TrainingError
from image_classifier.platform.cluster import SERVICE_ACCOUNT, api_error_message
from image_classifier.settings import ENVIRONMENT_PREFIX

PORT = 29500
_LAUNCHER = Path("/cnb/lifecycle/launcher")  # sets the environment in images that a buildpack built
_CONTAINER = "step-train"
_COPIED_LABELS = ("app.kubernetes.io/component", "app.kubernetes.io/part-of", "carto.run/workload-name")
_MOUNTS = ("/work", "/tmp")  # noqa: S108 (volumes of the Tekton Task)
_FINISHED_JOB_SECONDS = 600  # how long a finished Job stays for inspection if nobody deletes it


@contextmanager
def training_pods(environment: Mapping[str, str], *, processes: int) -> Iterator[dict[str, str]]:
    """Start all processes but the first, each in its own pod; yields environment variables for the first one.

    The pods run `source` and `train` with the image, settings and limits of this pod's step, and are deleted when the
    block ends. Raises TrainingError if they cannot be created; to a TrainingError of the block it adds their states.
    """
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException

    config.load_incluster_config()  # type: ignore[no-untyped-call]
    namespace = (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8")
    pods, jobs = client.CoreV1Api(), client.BatchV1Api()
    to_json: Callable[[Any], Any] = pods.api_client.sanitize_for_serialization
    try:
        pod = to_json(pods.read_namespaced_pod(environment["HOSTNAME"], namespace))
        job: Any = job_manifest(pod, processes=processes, python=sys.executable)
        name = to_json(jobs.create_namespaced_job(namespace, job))["metadata"]["name"]
    except ApiException as error:
        raise TrainingError(
            f"cannot create the training pods: {api_error_message(error)}; an operator allows them in a namespace "
            "with config/distributed"
        ) from error
    try:
        yield {"RANK": "0", **_group_variables(pod, processes)}
    except TrainingError as error:
        created = pods.list_namespaced_pod(namespace, label_selector=f"job-name={name}")
        states = [describe_pod(pod) for pod in to_json(created)["items"]]
        raise TrainingError(f"{error}; the other training pods: {', '.join(states) or 'none'}") from error
    finally:
        jobs.delete_namespaced_job(name, namespace, propagation_policy="Background")


def job_manifest(pod: Mapping[str, Any], *, processes: int, python: str) -> dict[str, Any]:
    """The Job for all processes but the first, which runs in the container "step-train" of `pod`.

    `python` is the path of the interpreter in the image.
    """
    [step] = [container for container in pod["spec"]["containers"] if container["name"] == _CONTAINER]
    launcher = [str(_LAUNCHER)] if _LAUNCHER.exists() else []
    mounts = [mount for mount in step["volumeMounts"] if mount["mountPath"] in _MOUNTS]
    variables = [each for each in step.get("env", []) if each["name"] != f"{ENVIRONMENT_PREFIX}RESULTS"]
    variables += [{"name": name, "value": value} for name, value in _group_variables(pod, processes).items()]
    common = {
        "image": step["image"],
        "env": variables,
        "resources": step.get("resources", {}),
        "securityContext": step.get("securityContext", {}),
        "volumeMounts": mounts,
    }

    def container(command: str) -> dict[str, Any]:
        arguments = [*launcher, python, "-m", "image_classifier.cli", command]
        return {"name": command, "command": arguments, **common}

    labels = {name: value for name, value in pod["metadata"]["labels"].items() if name in _COPIED_LABELS}
    spec = pod["spec"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "generateName": f"{pod['metadata']['name'][:40].rstrip('-.')}-along-",
            "labels": labels,
            # The Job is deleted with the pod, however the pod ends.
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
            ],
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": processes - 1,
            "parallelism": processes - 1,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": _FINISHED_JOB_SECONDS,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "serviceAccountName": spec["serviceAccountName"],
                    "enableServiceLinks": False,
                    "imagePullSecrets": spec.get("imagePullSecrets", []),
                    "nodeSelector": spec.get("nodeSelector", {}),
                    "tolerations": spec.get("tolerations", []),
                    "initContainers": [container("source")],
                    "containers": [container("train")],
                    "volumes": [{"name": mount["name"], "emptyDir": {}} for mount in mounts],
                },
            },
        },
    }


def _group_variables(pod: Mapping[str, Any], processes: int) -> dict[str, str]:
    return {"WORLD_SIZE": str(processes), "MASTER_ADDR": pod["status"]["podIP"], "MASTER_PORT": str(PORT)}


def describe_pod(pod: Mapping[str, Any]) -> str:
    """A pod's name and phase, and why its containers do not run."""
    status = pod["status"]
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    reasons = [
        f"{container['name']} {details.get('reason', '')} {details.get('message', '')}".strip()
        for container in containers
        for state, details in container.get("state", {}).items()
        if state == "waiting" or details.get("exitCode")
    ]
    reasons += [
        condition["message"]
        for condition in status.get("conditions", [])
        if condition["status"] != "True" and condition.get("message")
    ]
    return f"{pod['metadata']['name']} {status['phase']}" + (f" ({'; '.join(reasons)})" if reasons else "")
