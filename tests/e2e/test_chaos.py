"""Faults while the supply chain runs and while servers answer (`make chaos`); needs a cluster that nobody else uses.

After every fault the registry is consistent, the live version stays live, and the chain completes without intervention.
With a second pod, the only lost requests are those that a killed server was answering and, if a whole pod is killed,
those that Knative sends to it for about a second, until Kubernetes reports that it is gone.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import BRIEF, Cluster, CommandError, Repository, new_name, run, wait
from tests.e2e.node import Node
from tests.e2e.registry_check import inconsistencies
from tests.e2e.user import Load, predict, wait_for_message, wait_for_version, wait_until_ready

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

QUICK = {**BRIEF, "budget": "8s", "max_accuracy_drop": "0.5", "max_recall_drop": "1", "max_robustness_drop": "1"}
"""A short training, and a gate that accepts all of its models."""
MLFLOW = r"mlflow server|uvicorn.*mlflow"
SERVER = r"image-classifier serve "
MAX_REFUSED_CONNECTIONS = 60
"""One client's requests in three times two seconds, half of which go to the other pod."""
STEPS = ("train", "evaluate", "register", "gate")
CONTROLLERS = {
    "Cartographer": r"^/ko-app/cartographer ",
    "Flux": r"^/ko-app/source-controller ",
    "Tekton": r"^/ko-app/controller -entrypoint-image ",
    "KServe": r"^/ko-app/manager ",
    "Knative": r"^/ko-app/controller $",
}


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> Iterator[Node]:
    repair = cluster.environment.get("CHAOS_REPAIR")
    if not repair:
        pytest.fail("set CHAOS_REPAIR (command that restarts killed processes of the node, as systemd would)")
    node = Node(repair)
    yield node
    node.repair()


@pytest.fixture(scope="module")
def served(cluster: Cluster, repository: Repository) -> str:
    """A ready workload with two server pods."""
    name = new_name("chaos")
    cluster.create(name, "--git-repo", repository.address, "--git-branch", "main", min_scale="2", **QUICK)
    wait_until_ready(cluster, name)
    return name


@pytest.fixture
def train_again(cluster: Cluster, served: str) -> Callable[[], set[str]]:
    """Starts a training; returns the names of the earlier runs of `train`."""

    def start() -> set[str]:
        before = {item["metadata"]["name"] for item in cluster.runs(served, "train")}
        cluster.change(served, min_scale="2", **QUICK, retrain=new_name("again"))
        return before

    return start


def running_server_pods(cluster: Cluster, name: str) -> list[dict[str, str]]:
    chosen = ("-l", f"serving.kserve.io/inferenceservice={name}")
    return [
        item["metadata"]
        for item in cluster.get("pods", *chosen)["items"]
        if item["status"]["phase"] == "Running" and "deletionTimestamp" not in item["metadata"]
    ]


def shim_command(node: Node, pod_uid: str) -> str:
    """A regular expression for the command line of a pod's containerd shim, the parent of its first process."""
    first = node.processes("", pod_uid)[0]
    parent = Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1]
    return re.escape(node.command(int(parent)).strip())


def step_started(cluster: Cluster, name: str, before: set[str], step: str) -> bool:
    """Whether a step of the newest training has started: its container waits until the step before ends."""
    new = [item for item in cluster.runs(name, "train") if item["metadata"]["name"] not in before]
    states = {state["name"]: state for item in new for state in item.get("status", {}).get("steps", [])}
    previous = ("source", *STEPS)[STEPS.index(step)]
    return "terminated" in states.get(previous, {})


def kill_when_running(node: Node, pattern: str) -> None:
    """Wait for a process, which may be restarting, and kill it."""
    wait(f"a process {pattern!r}", lambda: node.processes(pattern), 120)
    node.kill(pattern)


def check_consistency(cluster: Cluster, name: str) -> str:
    """Wait until the workload is ready, and check the registry; returns the live version."""
    wait_until_ready(cluster, name)
    assert inconsistencies(cluster, name) == []
    version = cluster.outputs(name, "train")["revision"]
    wait_for_version(cluster.url(name), version)
    return version


def lost_except_refused(load: Load) -> list[str]:
    """The lost requests, except connections that a killed pod refused, if these are few."""
    refused = [lost for lost in load.lost if "connection refused" in lost]
    assert len(refused) <= MAX_REFUSED_CONNECTIONS, refused
    return [lost for lost in load.lost if lost not in refused]


@pytest.mark.parametrize(("process", "which"), [("a worker of the server", slice(1, 2)), ("the server", slice(0, 1))])
def test_a_killed_server_loses_only_the_requests_that_it_was_answering(
    cluster: Cluster, served: str, node: Node, process: str, which: slice
):
    url = cluster.url(served)
    with Load(url) as load:
        for _ in range(3):
            # A killed server restarts after a backoff that grows, so a running one is chosen.
            running = [p["uid"] for p in running_server_pods(cluster, served) if node.processes(SERVER, p["uid"])]
            node.kill(SERVER, running[0], which=which)
            time.sleep(8)
    print(f"{process} killed 3 times: {load}: {load.lost[:5]}")
    assert load.answered > 50
    assert len(lost_except_refused(load)) <= 3
    check_consistency(cluster, served)


def test_a_pod_without_its_shim_is_replaced(cluster: Cluster, served: str, node: Node):
    pod = running_server_pods(cluster, served)[0]
    with Load(cluster.url(served)) as load:
        node.kill(rf"^{shim_command(node, pod['uid'])} $")
        time.sleep(30)
    print(f"a shim killed: {load}: {load.lost[:5]}")
    assert len(lost_except_refused(load)) <= 1
    check_consistency(cluster, served)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_survives_a_restart_of_mlflow(
    cluster: Cluster, served: str, node: Node, train_again: Callable[[], set[str]], step: str
):
    # Kubernetes doubles the restart backoff after every kill; a new pod starts without one.
    run("kubectl", "rollout", "restart", "-n", "mlflow", "deploy/mlflow")
    run("kubectl", "rollout", "status", "-n", "mlflow", "deploy/mlflow", "--timeout=120s", seconds=130)
    before = train_again()
    wait(f"step {step}", lambda: step_started(cluster, served, before, step), every=0.2)
    # Three times, in and after the step, so that one kill interrupts a write.
    for _ in range(3):
        kill_when_running(node, MLFLOW)
        time.sleep(1.5)
    print(f"MLflow killed in {step}; version {check_consistency(cluster, served)} is live")


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_chain_survives_a_restart_of_a_controller(
    cluster: Cluster, served: str, node: Node, train_again: Callable[[], set[str]], controller: str
):
    before = train_again()
    with Load(cluster.url(served)) as load:
        for moment in ("train", "register"):
            wait(moment, lambda moment=moment: step_started(cluster, served, before, moment), every=0.2)
            kill_when_running(node, CONTROLLERS[controller])
        version = check_consistency(cluster, served)
    print(f"{controller} killed twice; version {version}; {load}")
    assert load.lost == []


@pytest.mark.parametrize("process", ["kubelet", "kube-apiserver", "kube-controller-manager", "etcd"])
def test_a_training_survives_a_restart_of_a_process_of_the_node(
    cluster: Cluster, served: str, node: Node, train_again: Callable[[], set[str]], process: str
):
    before = train_again()
    wait("train", lambda: step_started(cluster, served, before, "train"), every=0.2)
    with Load(cluster.url(served)) as load:
        node.kill(rf"platform/bin/{process} ")
        time.sleep(10)
        node.repair()
        version = check_consistency(cluster, served)
    print(f"{process} stopped for 10 s; version {version}; {load}")
    assert load.lost == []


def test_a_full_disk_of_mlflow_is_reported_and_the_chain_continues_when_there_is_space(
    cluster: Cluster, served: str, train_again: Callable[[], set[str]]
):
    volume = Path(cluster.environment["E2E_VOLUME"])
    version = predict(cluster.url(served))
    filler = volume / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            pass
    try:
        train_again()
        print(wait_for_message(cluster, served, "train", "a full disk"))
        assert predict(cluster.url(served)) == version
    finally:
        filler.unlink()
    train_again()
    check_consistency(cluster, served)


def test_a_deletion_is_completed_after_a_restart_of_the_api_server(cluster: Cluster, served: str, node: Node):
    run("tanzu", "apps", "workload", "delete", served, "-n", cluster.namespace, "--yes")
    node.kill(r"platform/bin/kube-apiserver ")
    node.repair()
    chosen = ("-l", f"carto.run/workload-name={served}")

    def is_deleted() -> bool:
        try:
            return not cluster.get("gitrepository,configmap,taskrun,inferenceservice,ksvc,pod", *chosen)["items"]
        except CommandError:
            return False

    wait("the deletion", is_deleted, 180)
