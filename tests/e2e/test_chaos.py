"""Things break while the chain runs and while it serves: `make chaos`, on a cluster that nobody else uses.

After each: the registry is consistent, what served serves, the chain comes to its end without a hand. Lost are
requests that a killed server was answering and, where all of a pod is gone, those that Knative sends there until
Kubernetes has said so, which takes about a second; no others, where a second pod is there.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, CommandError, Repository, new_name, run, wait
from tests.e2e.node import Node
from tests.e2e.registry_check import inconsistencies
from tests.e2e.user import Load, answers, ask, settled, unwell

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

QUICK = {"budget": "8s", "max_accuracy_drop": "0.5", "max_recall_drop": "1", "max_robustness_drop": "1"}
"""A training whose models are as good as each other: what is tried here is the chain."""
MLFLOW = r"mlflow server|uvicorn.*mlflow"
SERVER = r"image-classifier serve "
MOST_REFUSED = 60
"""Three times two seconds' worth of one client's requests, half of which go to the other pod."""
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
        pytest.fail(
            "set CHAOS_REPAIR (command that starts again what was killed of the node, as systemd would)"
        )
    node = Node(repair)
    yield node
    node.repair()


@pytest.fixture(scope="module")
def served(cluster: Cluster, repository: Repository) -> str:
    """A workload that serves, with two servers."""
    name = new_name("chaos")
    cluster.create(name, "--git-repo", repository.address, "--git-branch", "main", min_scale="2", **QUICK)
    settled(cluster, name)
    return name


@pytest.fixture
def train_again(cluster: Cluster, served: str) -> Callable[[], set[str]]:
    """Ask for a new model; gives the names of the runs of `train` before it."""

    def begin() -> set[str]:
        before = {item["metadata"]["name"] for item in cluster.runs(served, "train")}
        cluster.change(served, min_scale="2", **QUICK, retrain=new_name("again"))
        return before

    return begin


def pods_that_serve(cluster: Cluster, name: str) -> list[dict[str, str]]:
    chosen = ("-l", f"serving.kserve.io/inferenceservice={name}")
    return [
        item["metadata"]
        for item in cluster.get("pods", *chosen)["items"]
        if item["status"]["phase"] == "Running" and "deletionTimestamp" not in item["metadata"]
    ]


def shim_command(node: Node, pod_uid: str) -> str:
    """The command line, escaped, of a pod's shim: outside of its control group, the parent of its first process."""
    first = node.processes("", pod_uid)[0]
    parent = Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1]
    return re.escape(node.command(int(parent)).strip())


def step_began(cluster: Cluster, name: str, before: set[str], step: str) -> bool:
    """Whether a step of the newest training is at work, or was; its container runs before, and waits."""
    new = [item for item in cluster.runs(name, "train") if item["metadata"]["name"] not in before]
    states = {state["name"]: state for item in new for state in item.get("status", {}).get("steps", [])}
    previous = ("source", *STEPS)[STEPS.index(step)]
    return "terminated" in states.get(previous, {})


def kill_when_there(node: Node, pattern: str) -> None:
    """Kill what runs, or is started again after it was killed before."""
    wait(f"a process {pattern!r}", lambda: node.processes(pattern), 120)
    node.kill(pattern)


def all_is_well(cluster: Cluster, name: str) -> str:
    """Wait until the workload is ready, then look whether everything fits; the version that serves."""
    settled(cluster, name)
    assert inconsistencies(cluster, name) == []
    version = cluster.outputs(name, "train")["revision"]
    answers(cluster.url(name), version)
    return version


def lost_apart_from_refused(load: Load) -> list[str]:
    """What was lost otherwise than at a pod where nothing listens any more; that, too, where it went on for long."""
    refused = [lost for lost in load.lost if "connection refused" in lost]
    assert len(refused) <= MOST_REFUSED, refused
    return [lost for lost in load.lost if lost not in refused]


@pytest.mark.parametrize(
    ("what", "which"), [("a worker of the server", slice(1, 2)), ("the server", slice(0, 1))]
)
def test_a_killed_server_loses_what_it_was_answering_and_what_still_goes_there(
    cluster: Cluster, served: str, node: Node, what: str, which: slice
):
    url = cluster.url(served)
    with Load(url) as load:
        for _ in range(3):
            # One that was killed is started again only after a while, and a longer one each time.
            at_work = [p["uid"] for p in pods_that_serve(cluster, served) if node.processes(SERVER, p["uid"])]
            node.kill(SERVER, at_work[0], which=which)
            time.sleep(8)
    print(f"{what} killed 3 times: {load}: {load.lost[:5]}")
    assert load.answered > 50
    assert len(lost_apart_from_refused(load)) <= 3
    all_is_well(cluster, served)


def test_a_pod_whose_shim_was_killed_is_replaced(cluster: Cluster, served: str, node: Node):
    pod = pods_that_serve(cluster, served)[0]
    with Load(cluster.url(served)) as load:
        node.kill(rf"^{shim_command(node, pod['uid'])} $")
        time.sleep(30)
    print(f"a shim killed: {load}: {load.lost[:5]}")
    assert len(lost_apart_from_refused(load)) <= 1
    all_is_well(cluster, served)


@pytest.mark.parametrize("step", STEPS)
def test_mlflow_may_be_killed_in_any_step(
    cluster: Cluster, served: str, node: Node, train_again: Callable[[], set[str]], step: str
):
    # What was killed is started again after a while that doubles each time; a new pod begins anew.
    run("kubectl", "rollout", "restart", "-n", "mlflow", "deploy/mlflow")
    run("kubectl", "rollout", "status", "-n", "mlflow", "deploy/mlflow", "--timeout=120s", seconds=130)
    before = train_again()
    wait(f"step {step}", lambda: step_began(cluster, served, before, step), every=0.2)
    # Thrice within the step and after it, so that one hits a write.
    for _ in range(3):
        kill_when_there(node, MLFLOW)
        time.sleep(1.5)
    print(f"MLflow killed in {step}; version {all_is_well(cluster, served)} serves")


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_controller_may_be_killed_in_each_step(
    cluster: Cluster, served: str, node: Node, train_again: Callable[[], set[str]], controller: str
):
    before = train_again()
    with Load(cluster.url(served)) as load:
        for moment in ("train", "register"):
            wait(moment, lambda moment=moment: step_began(cluster, served, before, moment), every=0.2)
            kill_when_there(node, CONTROLLERS[controller])
        version = all_is_well(cluster, served)
    print(f"{controller} killed twice; version {version}; {load}")
    assert load.lost == []


@pytest.mark.parametrize("process", ["kubelet", "kube-apiserver", "kube-controller-manager", "etcd"])
def test_a_process_of_the_node_may_be_killed_in_a_training(
    cluster: Cluster, served: str, node: Node, train_again: Callable[[], set[str]], process: str
):
    before = train_again()
    wait("train", lambda: step_began(cluster, served, before, "train"), every=0.2)
    with Load(cluster.url(served)) as load:
        node.kill(rf"platform/bin/{process} ")
        time.sleep(10)
        node.repair()
        version = all_is_well(cluster, served)
    print(f"{process} gone for 10 s; version {version}; {load}")
    assert load.lost == []


def test_a_full_disk_of_mlflow_is_named_and_the_chain_goes_on_when_there_is_room(
    cluster: Cluster, served: str, train_again: Callable[[], set[str]]
):
    volume = Path(cluster.environment["E2E_VOLUME"])
    version = ask(cluster.url(served))
    filler = volume / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            pass
    try:
        train_again()
        print(unwell(cluster, served, "train", "a full disk"))
        assert ask(cluster.url(served)) == version
    finally:
        filler.unlink()
    train_again()
    all_is_well(cluster, served)


def test_nothing_is_left_of_what_was_deleted_while_the_api_server_went(
    cluster: Cluster, served: str, node: Node
):
    run("tanzu", "apps", "workload", "delete", served, "-n", cluster.namespace, "--yes")
    node.kill(r"platform/bin/kube-apiserver ")
    node.repair()
    chosen = ("-l", f"carto.run/workload-name={served}")

    def gone() -> bool:
        try:
            return not cluster.get("gitrepository,configmap,taskrun,inferenceservice,ksvc,pod", *chosen)[
                "items"
            ]
        except CommandError:
            return False

    wait("all of it gone", gone, 180)
