"""What every pod and image of the chain must not be able to do, whoever wrote its manifest."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.write_golden import GOLDEN

ROOT = Path(__file__).parent.parent.parent
PATCHED = ROOT / "config" / "mlflow-postgresql-s3"
MANIFESTS = [
    path
    for path in sorted([*ROOT.glob("config/**/*.yaml"), *ROOT.glob("tekton/*-task.yaml")])
    if path.parent != PATCHED
]
PRIVILEGED = "image-classifier-build"
"""Builds in the cluster need it; docs/platform-operator.md says where it may run."""
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
TARGETS = ("server", "trainer", "mlflow")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def containers_of(content: Any) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each container of an object: what it is called, itself, and the pod it is in."""
    kind, spec = content.get("kind"), content.get("spec", {})
    name = content["metadata"].get("name", "")
    if kind == "Task":
        for step in spec["steps"]:
            yield f"{name}/{step['name']}", {**spec.get("stepTemplate", {}), **step}, spec
    elif kind == "Deployment":
        pod = spec["template"]["spec"]
        for container in pod["containers"]:
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
            found.update({case + name: (own, pod) for name, own, pod in containers_of(content)})
    return found


CONTAINERS = all_containers()
UNPRIVILEGED = {name: found for name, found in CONTAINERS.items() if not name.startswith(PRIVILEGED)}


def test_the_containers_of_every_kind_are_looked_at():
    kinds = {name.rpartition("/")[2] for name in CONTAINERS}
    assert {
        "train",
        "test",
        "accept",
        "build",
        "pull",
        "mlflow",
        "storage-initializer",
        "kserve-container",
    } <= kinds


@pytest.mark.parametrize("name", UNPRIVILEGED)
def test_a_container_is_no_root_writes_nowhere_but_to_volumes_and_gains_no_privilege(name):
    own, _ = UNPRIVILEGED[name]
    context = own["securityContext"]
    assert context.get("runAsNonRoot") is True
    assert context.get("readOnlyRootFilesystem") is True
    assert context.get("allowPrivilegeEscalation") is False
    assert context.get("capabilities") == {"drop": ["ALL"]}
    assert context.get("seccompProfile") == {"type": "RuntimeDefault"}
    assert not context.get("privileged")
    assert context.get("runAsUser") != 0


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_pod_sees_nothing_of_its_node_and_has_no_token(name):
    _, pod = CONTAINERS[name]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & {key for key, value in pod.items() if value}
    volumes = [*pod.get("volumes", [])]
    assert all("hostPath" not in volume for volume in volumes)
    if "containers" in pod:
        assert pod["automountServiceAccountToken"] is False


def test_only_the_build_is_privileged():
    privileged = {
        name.partition("/")[0]
        for name, (own, _) in CONTAINERS.items()
        if own.get("securityContext", {}).get("privileged")
    }
    assert privileged == {PRIVILEGED}


def resources(own: dict[str, Any]) -> dict[str, Any]:
    return dict(own.get("resources") or own.get("computeResources") or {})


def test_every_pod_asks_for_what_it_takes_and_is_stopped_at_a_limit_of_memory():
    pods: dict[str, list[dict[str, Any]]] = {}
    for name, (own, _) in UNPRIVILEGED.items():
        pods.setdefault(name.rpartition("/")[0], []).append(resources(own))
    for name, asked in pods.items():
        # Tekton adds the steps of a task up; the heaviest one asks for all of them.
        assert any({"cpu", "memory"} <= set(one.get("requests", {})) for one in asked), name
        assert any("memory" in one.get("limits", {}) for one in asked), name


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
def test_an_image_runs_as_a_user_who_is_not_root(target):
    users = re.findall(r"(?m)^USER (\S+)$", stage(target))
    assert users
    assert users[-1] == "1000:1000"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_its_bill_of_materials(target):
    stages = stage(target)
    while not re.search(r"(?m)^RUN --mount=from=bom,.* /bom/image_bom\.py$", stages):
        parent = re.search(r"(?m)^FROM (\S+) AS", stages)
        assert parent is not None
        assert parent[1] != "${PYTHON_IMAGE}", f"{target} lists nothing"
        stages = stage(parent[1])


def test_an_image_installs_what_is_pinned_alone():
    for line in re.findall(r"(?m)pip .*install .*$", DOCKERFILE):
        assert re.search(r"install (--no-deps /wheels/\*\.whl|--requirement requirements/\w+\.txt)$", line), (
            line
        )
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert line.startswith("#") or re.fullmatch(r"[a-z0-9._-]+==\S+( ; .+)?", line), (
                f"{path.name}: {line}"
            )


def test_nothing_is_fetched_into_an_image_but_by_package_managers():
    assert not re.search(r"(?m)^ADD |curl |wget |https?://", DOCKERFILE)


def test_the_signing_key_is_in_the_step_that_signs_alone():
    patch = read(ROOT / "config" / "signing" / "sign-at-registration.yaml")
    steps = read(ROOT / "tekton" / "train-task.yaml")["spec"]["steps"]
    number = next(index for index, step in enumerate(steps) if step["name"] == "register")
    for change in patch:
        assert change["path"].startswith((f"/spec/steps/{number}/", "/spec/volumes/"))
    environment = next(change["value"] for change in patch if change["path"].endswith("/env"))
    given = {item["name"]: item["value"] for item in environment}
    # The step runs the image's code: not the source's, nor what its training left in the home folder.
    assert given["PYTHONPATH"] == "/dev/null"
    assert given["PYTHONNOUSERSITE"] == "1"
