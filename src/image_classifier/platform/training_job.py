"""The pods that train along with this one: an indexed Job, made like the pod that this process runs in."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from image_classifier.errors import TrainingError
from image_classifier.platform.cluster import ACCOUNT, message_of
from image_classifier.settings import ENVIRONMENT_PREFIX

PORT = 29500
_LAUNCHER = Path("/cnb/lifecycle/launcher")
"""Sets the environment in images that a buildpack made."""
_CONTAINER = "step-train"
_KEPT_LABELS = ("app.kubernetes.io/component", "app.kubernetes.io/part-of", "carto.run/workload-name")
_KEPT_SECONDS = 600
"""So long an ended Job stays to be looked at, where nobody deletes it."""


@contextmanager
def helping_pods(environment: Mapping[str, str], *, processes: int) -> Iterator[dict[str, str]]:
    """Start all but the first of so many processes, a pod each; gives what the first needs in its environment.

    They run `source` and `train` with the image, settings and limits of this pod's step, and end with the block.
    Raises TrainingError where the pods may not be made, and adds what hinders them to one that comes of waiting.
    """
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException

    config.load_incluster_config()  # type: ignore[no-untyped-call]
    namespace = (ACCOUNT / "namespace").read_text(encoding="utf-8")
    pods, jobs = client.CoreV1Api(), client.BatchV1Api()
    plain: Callable[[Any], Any] = pods.api_client.sanitize_for_serialization
    try:
        pod = plain(pods.read_namespaced_pod(environment["HOSTNAME"], namespace))
        job: Any = job_like(pod, processes=processes, python=sys.executable)
        name = plain(jobs.create_namespaced_job(namespace, job))["metadata"]["name"]
    except ApiException as error:
        raise TrainingError(
            f"the pods that train along cannot be made: {message_of(error)}; an operator allows it in a namespace "
            "with config/distributed"
        ) from error
    try:
        yield {
            "RANK": "0",
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": pod["status"]["podIP"],
            "MASTER_PORT": str(PORT),
        }
    except TrainingError as error:
        made = pods.list_namespaced_pod(namespace, label_selector=f"job-name={name}")
        states = [state(pod) for pod in plain(made)["items"]]
        raise TrainingError(f"{error}; the pods that train along: {', '.join(states) or 'none'}") from error
    finally:
        jobs.delete_namespaced_job(name, namespace, propagation_policy="Background")


def job_like(pod: Mapping[str, Any], *, processes: int, python: str) -> dict[str, Any]:
    """The Job of all processes but the first, after `pod`, in whose container "step-train" the first is.

    `python` is the interpreter of the image.
    """
    [step] = [container for container in pod["spec"]["containers"] if container["name"] == _CONTAINER]
    launcher = [str(_LAUNCHER)] if _LAUNCHER.exists() else []
    mounted = {"/work", "/tmp"}  # noqa: S108 (the volumes of the Task)
    mounts = [mount for mount in step["volumeMounts"] if mount["mountPath"] in mounted]
    common = {
        "image": step["image"],
        "env": [
            *(one for one in step.get("env", []) if one["name"] != f"{ENVIRONMENT_PREFIX}RESULTS"),
            {"name": "WORLD_SIZE", "value": str(processes)},
            {"name": "MASTER_ADDR", "value": pod["status"]["podIP"]},
            {"name": "MASTER_PORT", "value": str(PORT)},
        ],
        "resources": step.get("resources", {}),
        "securityContext": step.get("securityContext", {}),
        "volumeMounts": mounts,
    }

    def container(word: str) -> dict[str, Any]:
        command = [*launcher, python, "-m", "image_classifier.cli", word]
        return {"name": word, "command": command, **common}

    labels = {name: value for name, value in pod["metadata"]["labels"].items() if name in _KEPT_LABELS}
    spec = pod["spec"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "generateName": f"{pod['metadata']['name'][:40].rstrip('-.')}-along-",
            "labels": labels,
            # With the pod goes the Job, however the pod ends.
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": pod["metadata"]["name"],
                    "uid": pod["metadata"]["uid"],
                }
            ],
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": processes - 1,
            "parallelism": processes - 1,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "serviceAccountName": spec["serviceAccountName"],
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


def state(pod: Mapping[str, Any]) -> str:
    """What a pod says of itself, in words."""
    status = pod["status"]
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    said = [
        f"{each['name']} {kind.get('reason', '')} {kind.get('message', '')}".strip()
        for each in containers
        for condition, kind in each.get("state", {}).items()
        if condition == "waiting" or kind.get("exitCode")
    ]
    said += [
        one["message"]
        for one in status.get("conditions", [])
        if one["status"] != "True" and one.get("message")
    ]
    return f"{pod['metadata']['name']} {status['phase']}" + (f" ({'; '.join(said)})" if said else "")
