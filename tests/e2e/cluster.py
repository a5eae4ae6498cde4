"""The cluster of the end-to-end tests, the supply chain in it, and a git repository that the tests push to."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
BRIEF = {"budget": "1.5s", "min_accuracy": "0.3", "min_recall": "0"}
"""Params of a model that is trained briefly, beside other pods, and is to be accepted."""
VARIABLES = {
    "KUBECONFIG": "the cluster",
    "E2E_TRAINER_IMAGE": "target trainer of the Dockerfile, with its digest",
    "E2E_SERVER_IMAGE": "target server, with its digest",
    "E2E_MLFLOW_IMAGE": "target mlflow, with its digest",
    "E2E_GIT": "URL from which the cluster fetches repositories, without the repository's name",
    "E2E_GIT_PUSH": "folder or URL to which the tests push bare repositories",
}
"""Optional variables:

- E2E_REGISTRY: registry for sources and images, over plain HTTP
- E2E_BUILDER_IMAGE: builder for builds in the cluster
- E2E_PYTHON_IMAGE: base image of these builds, if the cluster cannot reach Docker Hub
- E2E_VOLUME: folder of the node for MLflow's volume, if the cluster provisions no volumes
- E2E_MLFLOW_STORES: file of `NAME=value` for MLflow on PostgreSQL and S3 (config/mlflow-postgresql-s3)
- E2E_NAMESPACE: the developer's namespace
- E2E_ROLLOUTS: number of roll-outs under load
- E2E_FAULTY_IMAGE: image of tests/e2e/faulty, and E2E_PLANTED: its faults to test, such as errors,slow,one-class
- E2E_TYPE: workload type of a chain that is already installed; then only the namespace is prepared
"""
_DAMAGE = """
import sys, pathlib, mlflow
client = mlflow.MlflowClient("http://localhost:5000")
model = client.get_model_version(sys.argv[1], sys.argv[2]).source.removeprefix("models:/")
for path in pathlib.Path("/data/artifacts").glob(f"**/{model}/**/*.onnx"):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    print(path)
"""
"""Python code that changes a byte of a version's model in MLflow's store."""
API_DESCRIPTORS = "apidescriptors.apis.apps.tanzu.vmware.com"


class CommandError(Exception):
    """A command failed; the text is its output."""


def run(*command: str | Path, text: str | None = None, cwd: Path | None = None, seconds: float = 120) -> str:
    done = subprocess.run(
        [str(part) for part in command], input=text, capture_output=True, text=True, cwd=cwd, timeout=seconds
    )
    if done.returncode:
        raise CommandError(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def wait(what: str, look: Callable[[], Any], seconds: float = 300, every: float = 1) -> Any:
    """Poll until `look` returns a true value, and return it; fails with the last value after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        last: Any = None
        try:
            last = look()
        except CommandError as error:
            last = error
        if last and not isinstance(last, CommandError):
            return last
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s; last: {last}"
        time.sleep(every)


def new_name(kind: str) -> str:
    """A name of which the registry has no versions."""
    return f"{kind}-{secrets.token_hex(3)}"


@dataclass
class Cluster:
    """The cluster with the supply chain, and a namespace in it."""

    environment: Mapping[str, str]
    namespace: str

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        return run("kubectl", "-n", self.namespace, *arguments, text=text)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def install(self) -> None:
        """Apply config/ with the images of the environment, as an operator would, and prepare the namespace."""
        with tempfile.TemporaryDirectory(dir=ROOT, prefix=".e2e.") as folder:
            overlay: dict[str, Any] = {
                "resources": ["../config"],
                "images": [
                    _image(name, self.environment[f"E2E_{part.upper()}_IMAGE"])
                    for part in ("mlflow", "server")
                    for name in (f"registry.example.org/image-classifier/{part}", f"image-classifier-{part}")
                ],
                "configurations": ["image-fields.yaml"],
            }
            if stores := self.environment.get("E2E_MLFLOW_STORES"):
                shutil.copy(stores, Path(folder) / "stores.env")
                overlay |= {
                    "resources": [f"../config/{part}" for part in ("chain", "storage", "mlflow-postgresql-s3")],
                    "secretGenerator": [{"name": "mlflow-stores", "namespace": "mlflow", "envs": ["stores.env"]}],
                    "generatorOptions": {"disableNameSuffixHash": True},
                }
            (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
            shutil.copy(ROOT / "config" / "storage" / "image-fields.yaml", folder)
            if volume := self.environment.get("E2E_VOLUME"):
                self.kubectl("apply", "-f", "-", text=yaml.safe_dump(_volume(volume)))
            run("kubectl", "apply", "--server-side", "--force-conflicts", "-k", folder)
        if not run("kubectl", "get", "crd", API_DESCRIPTORS, "--ignore-not-found"):
            run("kubectl", "apply", "-f", Path(__file__).with_name("api-descriptors.yaml"))
        self.prepare("restricted")
        run("kubectl", "rollout", "status", "-n", "mlflow", "deploy/mlflow", "--timeout=300s", seconds=310)

    def prepare(self, pod_security: str) -> None:
        """Create and prepare the namespace, with a level of Pod Security."""
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": {"pod-security.kubernetes.io/enforce": pod_security}},
        }
        self.kubectl("apply", "-f", "-", text=yaml.safe_dump(namespace))
        self.kubectl("apply", "-k", str(ROOT / "config" / "namespace"))

    def allow_watching(self) -> None:
        """As an operator does (docs/platform-operator.md)."""
        self._bind("image-classifier-watch")

    def _bind(self, name: str) -> None:
        if not self.kubectl("get", "rolebinding", name, "--ignore-not-found"):
            account = f"--serviceaccount={self.namespace}:{name}"
            self.kubectl("create", "rolebinding", name, f"--role={name}", account)

    @contextmanager
    def tracking_server(self) -> Iterator[str]:
        """The address of the cluster's MLflow, forwarded to this machine."""
        forward = subprocess.Popen(
            ["kubectl", "port-forward", "-n", "mlflow", "service/mlflow", ":5000"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert forward.stdout is not None
            port = forward.stdout.readline().rpartition(" -> ")[0].rpartition(":")[2]
            # One of the host names that config/mlflow allows.
            yield f"http://localhost:{port}"
        finally:
            forward.terminate()
            forward.communicate()

    def image_classifier(self, *arguments: str) -> str:
        """The output of an `image-classifier` command that uses the cluster's registry."""
        with self.tracking_server() as address:
            variables = {**self.environment, "MLFLOW_TRACKING_URI": address}
            command = [sys.executable, "-m", "image_classifier.cli", *arguments]
            done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise CommandError(done.stdout + done.stderr)
        return done.stdout

    def allow_distributed_training(self) -> None:
        """As an operator does (config/README.md)."""
        self.kubectl("apply", "-k", str(ROOT / "config" / "distributed"))
        self._bind("image-classifier-distributed")

    # Commands of a developer

    def tanzu(self, *arguments: str, cwd: Path | None = None) -> str:
        return run("tanzu", "apps", "workload", *arguments, "-n", self.namespace, cwd=cwd)

    def create(self, name: str, /, *arguments: str, **params: Any) -> None:
        """Create a workload; params that are None are omitted."""
        self._write("create", name, *arguments, **params)

    @contextmanager
    def workload(self, kind: str, /, *arguments: str, **params: Any) -> Iterator[str]:
        """A workload that exists during the block."""
        name = new_name(kind)
        self.create(name, *arguments, **params)
        try:
            yield name
        finally:
            self.delete(name)

    def change(self, name: str, /, *arguments: str, **params: Any) -> None:
        """Change a workload; params that are None are removed."""
        self._write("apply", name, *arguments, **params)

    def _write(self, verb: str, name: str, /, *arguments: str, **params: Any) -> None:
        params = {
            "trainer_image": self.environment["E2E_TRAINER_IMAGE"],
            "server_image": self.environment["E2E_SERVER_IMAGE"],
            **params,
        }
        flags = [f"--param={key}={value}" for key, value in params.items() if value is not None]
        if verb == "apply":
            flags += [f"--param={key}-" for key, value in params.items() if value is None]
        self.tanzu(
            verb,
            name,
            "--type",
            self.environment.get("E2E_TYPE", "ml-image"),
            "--app",
            name,
            *flags,
            *arguments,
            "--yes",
        )

    def show(self, name: str) -> str:
        """The output of `tanzu apps workload get`."""
        return self.tanzu("get", name)

    def delete(self, name: str) -> None:
        self.tanzu("delete", name, "--yes", "--wait")

    # Faults

    def damage(self, model: str, version: str) -> None:
        """Damage a registered model in MLflow's store."""
        python = ("kubectl", "exec", "-n", "mlflow", "deploy/mlflow", "--", "python", "-c")
        assert ".onnx" in run(*python, _DAMAGE, model, version)

    # The state of workloads

    def ready(self, name: str) -> bool:
        status = self.get("workload", name).get("status", {})
        return any(item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions", []))

    def resource(self, name: str, resource: str) -> dict[str, Any]:
        """A resource of the chain in the workload's status; {} if there is none."""
        for item in self.get("workload", name).get("status", {}).get("resources", []):
            if item["name"] == resource:
                return dict(item)
        return {}

    def outputs(self, name: str, resource: str) -> dict[str, str]:
        """The outputs of a resource, which Cartographer shows as YAML."""
        outputs = self.resource(name, resource).get("outputs", [])
        return {item["name"]: str(yaml.safe_load(item["preview"])) for item in outputs}

    def message(self, name: str, resource: str) -> str:
        """Why a resource is not ready."""
        conditions = self.resource(name, resource).get("conditions", [])
        return " ".join(item.get("message", "") for item in conditions if item["status"] != "True")

    def runs(self, name: str, step: str) -> list[Any]:
        """The TaskRuns of a step, oldest first."""
        chosen = f"carto.run/workload-name={name},carto.run/resource-name={step}"
        items = self.get("taskruns", "-l", chosen)["items"]
        return sorted(items, key=lambda item: item["metadata"]["creationTimestamp"])

    def log(self, taskrun: Any, step: str) -> str:
        """The log of a step."""
        return self.kubectl("logs", taskrun["status"]["podName"], "-c", f"step-{step}")

    def url(self, name: str) -> str:
        return str(self.get("inferenceservice", name)["status"]["url"])


@dataclass
class Repository:
    """A git repository, and a clone of it from which commits are pushed."""

    address: str
    folder: Path

    def commit(self, message: str, **files: str) -> str:
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        run("git", "add", "-A", cwd=self.folder)
        run("git", "-c", "user.name=e2e", "-c", "user.email=e2e@example.org", "commit", "-qm", message, cwd=self.folder)
        run("git", "push", "-q", "origin", "HEAD:main", cwd=self.folder)
        return run("git", "rev-parse", "HEAD", cwd=self.folder).strip()


def make_repository(environment: Mapping[str, str], name: str, folder: Path) -> Repository:
    """A new repository with only a README."""
    bare = f"{environment['E2E_GIT_PUSH'].rstrip('/')}/{name}.git"
    if not bare.startswith(("http:", "https:", "ssh:", "git@")):
        shutil.rmtree(bare, ignore_errors=True)
        run("git", "init", "-q", "--bare", "-b", "main", bare)
    run("git", "init", "-q", "-b", "main", cwd=folder)
    run("git", "remote", "add", "origin", bare, cwd=folder)
    repository = Repository(f"{environment['E2E_GIT'].rstrip('/')}/{name}.git", folder)
    repository.commit("Initial commit", **{"README.md": "To do.\n"})
    return repository


def copy_project(folder: Path) -> None:
    """Copy the project's code, and some fast tests."""
    (folder / "tests").mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignored)
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    for file in ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml", "workload.yaml"):
        shutil.copy(ROOT / file, folder / file)
    for file in ("__init__.py", "conftest.py", "test_files.py"):
        shutil.copy(ROOT / "tests" / file, folder / "tests" / file)
    for room in ("settings", "package"):
        shutil.copytree(ROOT / "tests" / room, folder / "tests" / room, ignore=ignored)


@contextmanager
def scaled(namespace: str, deployment: str, replicas: int) -> Iterator[None]:
    """Scale a deployment during the block."""
    run("kubectl", "scale", "-n", namespace, f"deploy/{deployment}", f"--replicas={replicas}")
    try:
        yield
    finally:
        run("kubectl", "scale", "-n", namespace, f"deploy/{deployment}", "--replicas=1")


def environment() -> dict[str, str]:
    return dict(os.environ)


def _image(name: str, image: str) -> dict[str, str]:
    repository, _, digest = image.partition("@")
    return {"name": name, "newName": repository, "digest": digest}


def _volume(folder: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "mlflow"},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": "mlflow", "name": "mlflow"},
            "hostPath": {"path": folder, "type": "Directory"},
        },
    }
