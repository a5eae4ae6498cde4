"""Security of pods and images: privileges, volumes, tokens, resources, digests, pinned packages."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.write_golden import GOLDEN

ROOT = Path(__file__).parents[2]
PATCHES = ROOT / "config" / "mlflow-postgresql-s3"
MANIFESTS = [
    path
    for path in sorted([*ROOT.glob("config/**/*.yaml"), *ROOT.glob("tekton/*-task.yaml")])
    if path.parent != PATCHES
]
PRIVILEGED = "image-classifier-build"
"""The Task that builds images; docs/platform-operator.md says where it may run."""
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
TARGETS = ("server", "trainer", "mlflow")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def containers_of(content: Any) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, definition and pod of each container of an object."""
    kind, spec = content.get("kind"), content.get("spec", {})
    name = content["metadata"].get("name", "")
    if kind == "Task":
        for step in spec["steps"]:
            yield f"{name}/{step['name']}", {**spec.get("stepTemplate", {}), **step}, spec
    elif kind in ("Deployment", "CronJob"):
        pod = (spec["jobTemplate"]["spec"] if kind == "CronJob" else spec)["template"]["spec"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            context = {**pod["securityContext"], **container.get("securityContext", {})}
            yield f"{name}/{container['name']}", {**container, "securityContext": context}, pod
    elif kind == "ClusterStorageContainer":
        yield f"{name}/{spec['container']['name']}", spec["container"], {}
    elif kind == "InferenceService":
        for container in spec["predictor"]["containers"]:
            yield f"{name}/{container['name']}", container, spec["predictor"]


def all_containers() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    found = {}
    stamped = sorted(GOLDEN.glob("*/expected.yaml"))
    for path in (*MANIFESTS, *stamped):
        content = read(path)
        if isinstance(content, dict) and "spec" in content and "metadata" in content:
            case = f"{path.parent.name}/" if path in stamped else ""
            found.update({case + name: (container, pod) for name, container, pod in containers_of(content)})
    return found


CONTAINERS = all_containers()
UNPRIVILEGED = [name for name in CONTAINERS if not name.startswith(PRIVILEGED)]


def test_containers_of_every_kind_are_checked():
    kinds = {name.rpartition("/")[2] for name in CONTAINERS}
    assert {
        "train",
        "test",
        "accept",
        "build",
        "pull",
        "retrain",
        "mlflow",
        "storage-initializer",
        "kserve-container",
    } <= kinds


@pytest.mark.parametrize("name", UNPRIVILEGED)
def test_a_container_is_restricted_and_writes_only_to_volumes(name):
    container, _ = CONTAINERS[name]
    context = container["securityContext"]
    assert context.get("runAsNonRoot") is True
    assert context.get("readOnlyRootFilesystem") is True
    assert context.get("allowPrivilegeEscalation") is False
    assert context.get("capabilities") == {"drop": ["ALL"]}
    assert context.get("seccompProfile") == {"type": "RuntimeDefault"}
    assert not context.get("privileged")
    assert context.get("runAsUser") != 0


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_pod_has_no_access_to_its_node(name):
    _, pod = CONTAINERS[name]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & {key for key, value in pod.items() if value}
    assert all("hostPath" not in volume for volume in pod.get("volumes", []))


def test_only_the_retraining_job_has_a_token_in_its_pod():
    with_token = {
        name.partition("/")[0]
        for name, (_, pod) in CONTAINERS.items()
        if "containers" in pod and pod.get("automountServiceAccountToken", True)
    }
    assert with_token == {"image-classifier-retraining"}


def test_no_pod_gets_variables_of_services():
    """A Service called image-classifier would set IMAGE_CLASSIFIER_PORT, one called mlflow MLFLOW_PORT."""
    links = {name: pod.get("enableServiceLinks") for name, (_, pod) in CONTAINERS.items() if "containers" in pod}
    assert {name.rpartition("/")[2] for name in links} >= {"mlflow", "retrain", "kserve-container"}
    for path in GOLDEN.glob("*/expected.yaml"):
        content = read(path)
        if content["kind"] == "TaskRun":
            links[path.parent.name] = content["spec"].get("podTemplate", {}).get("enableServiceLinks")
    assert {"train", "test", "accept", "watch", "image-build", "image-given-server"} <= set(links)
    assert [name for name, value in links.items() if value is not False] == []


def test_only_the_build_is_privileged():
    privileged = {
        name.partition("/")[0]
        for name, (container, _) in CONTAINERS.items()
        if container.get("securityContext", {}).get("privileged")
    }
    assert privileged == {PRIVILEGED}


def test_every_pod_has_requests_and_a_memory_limit():
    pods: dict[str, list[dict[str, Any]]] = {}
    for name in UNPRIVILEGED:
        container, _ = CONTAINERS[name]
        resources = container.get("resources") or container.get("computeResources") or {}
        pods.setdefault(name.rpartition("/")[0], []).append(resources)
    for name, containers in pods.items():
        # One step of a Task requests the resources for all of its steps.
        assert any({"cpu", "memory"} <= set(resources.get("requests", {})) for resources in containers), name
        assert any("memory" in resources.get("limits", {}) for resources in containers), name


def test_stamped_images_are_named_by_their_digest():
    for path in GOLDEN.glob("*/expected.yaml"):
        spec = read(path).get("spec", {})
        predictor = spec.get("predictor", {})
        images = [container["image"] for container in predictor.get("containers", [])]
        images += [
            param["value"]
            for param in spec.get("params", [])
            if isinstance(param, dict) and param.get("name") in ("trainer_image", "image")
        ]
        assert all(re.search(r"@sha256:[0-9a-f]{64}$", image) for image in images), path


def stage(name: str) -> str:
    """The lines of a stage of the Dockerfile."""
    return next(part for part in re.split(r"(?m)^(?=FROM )", DOCKERFILE) if f" AS {name}\n" in part)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_does_not_run_as_root(target):
    users = re.findall(r"(?m)^USER (\S+)$", stage(target))
    assert users
    assert users[-1] == "1000:1000"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_contains_its_bill_of_materials(target):
    stages = stage(target)
    while not re.search(r"(?m)^RUN --mount=from=bom,.* /bom/image_bom\.py$", stages):
        parent = re.search(r"(?m)^FROM (\S+) AS", stages)
        assert parent is not None
        assert parent[1] != "${PYTHON_IMAGE}", f"{target} has no bill of materials"
        stages = stage(parent[1])


def test_an_image_installs_only_pinned_packages():
    for line in re.findall(r"(?m)pip .*install .*$", DOCKERFILE):
        assert re.search(r"install (--no-deps /wheels/\*\.whl|--requirement requirements/\w+\.txt)$", line), line
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert line.startswith("#") or re.fullmatch(r"[a-z0-9._-]+==\S+( ; .+)?", line), f"{path.name}: {line}"


def test_an_image_downloads_nothing_except_packages():
    assert not re.search(r"(?m)^ADD |curl |wget |https?://", DOCKERFILE)


def test_only_the_step_that_registers_gets_the_signing_key():
    patch = read(ROOT / "config" / "signing" / "sign-at-registration.yaml")
    steps = read(ROOT / "tekton" / "train-task.yaml")["spec"]["steps"]
    number = next(index for index, step in enumerate(steps) if step["name"] == "register")
    for change in patch:
        assert change["path"].startswith((f"/spec/steps/{number}/", "/spec/volumes/"))
    environment = next(change["value"] for change in patch if change["path"].endswith("/env"))
    variables = {item["name"]: item["value"] for item in environment}
    # No code of the source, nor of packages that the training left in the home folder.
    assert variables["PYTHONPATH"] == "/dev/null"
    assert variables["PYTHONNOUSERSITE"] == "1"
