"""Models are signed when they are registered, and verified before they are served."""

from collections.abc import Iterator

import pytest

from tests.attestation.test_model_signature import write_keys
from tests.e2e.cluster import BRIEF, ROOT, Cluster, Repository, new_name, run
from tests.e2e.user import predict, wait_for_message, wait_until_ready
from tests.manifests.test_network import ALL_PODS, selecting

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
TAMPER = """
import hashlib, json, pathlib, sys, mlflow
client = mlflow.MlflowClient("http://localhost:5000")
model = client.get_model_version(sys.argv[1], "1").source.removeprefix("models:/")
(path,) = pathlib.Path("/data/artifacts").glob(f"**/{model}/**/manifest.json")
(path.parent / "reference.json").write_text("{}")
manifest = json.loads(path.read_text())
manifest["files"]["reference.json"] = hashlib.sha256(b"{}").hexdigest()
lines = "".join(f"{digest}  {name}\\n" for name, digest in sorted(manifest["files"].items()))
manifest["digest"] = hashlib.sha256(lines.encode()).hexdigest()
path.write_text(json.dumps(manifest))
"""
"""Python code that changes a file in MLflow's store and its manifest, as an attacker without the key would."""


@pytest.fixture(scope="module")
def signing(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, str]]:
    """A namespace where models are signed, and the public key."""
    namespace = Cluster(cluster.environment, f"{cluster.namespace}-signing")
    namespace.prepare("restricted")
    private, public = write_keys(tmp_path_factory.mktemp("keys"))
    secret = f"--from-file=key.pem={private}"
    namespace.kubectl("create", "secret", "generic", "image-classifier-signing-key", secret)
    namespace.kubectl("apply", "-k", str(ROOT / "config" / "signing"))
    try:
        yield namespace, public.read_text()
    finally:
        run("kubectl", "delete", "namespace", namespace.namespace, "--wait=false")


def policies_of_pods(cluster: Cluster, name: str) -> dict[str, set[str]]:
    """The network policies that select a workload's pods, by component, without those of all pods."""
    pods = cluster.get("pods", "-l", f"carto.run/workload-name={name}")["items"]
    labels = [pod["metadata"]["labels"] for pod in pods]
    return {each["app.kubernetes.io/component"]: selecting(each) - ALL_PODS for each in labels}


def test_a_signed_model_is_served_and_an_altered_one_is_not(signing: tuple[Cluster, str], repository: Repository):
    cluster, key = signing
    name = new_name("signed")
    source = ("--git-repo", repository.address, "--git-branch", "main")
    easy = {**BRIEF, "budget": "5s", "min_accuracy": "0.15", "max_calibration_error": "1"}
    params = {**easy, "public_key": key, "min_scale": "1"}
    cluster.create(name, *source, **params)
    print(wait_until_ready(cluster, name))
    assert predict(cluster.url(name)) == "1"
    found = policies_of_pods(cluster, name)
    print(f"network policies of the pods: {found}")
    server = {"run": {"server"}}
    assert found.items() >= {"test": {"test"}, "train": {"train"}, "accept": {"accept"}, **server}.items()

    run("kubectl", "exec", "-n", "mlflow", "deploy/mlflow", "--", "python", "-c", TAMPER, name)
    # A change of any server setting creates new pods, which download the model again.
    cluster.change(name, **params, top="3")
    print(wait_for_message(cluster, name, "candidate", "differs from what was signed"))
    assert predict(cluster.url(name)) == "1"
    cluster.delete(name)
