"""The cases of the chain, in the order in which a team would meet them."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Repository, scaled, wait

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
FAILING = "def test_that_is_wrong():\n    assert False\n"
PASSING = "def test_that_is_right():\n    pass\n"


def image_of_a_digit() -> bytes:
    import io

    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    buffer = io.BytesIO()
    digit = load_digits().images[0] * (255 / 16)
    Image.fromarray(digit.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def ask(url: str, seconds: float = 60) -> tuple[str, str]:
    """What the server makes of a zero, and the version that says so."""
    request = urllib.request.Request(f"{url}/predict", image_of_a_digit(), {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=seconds) as response:
        return json.load(response)["predictions"][0]["label"], response.headers["X-Model-Version"]


def settled(cluster: Cluster, name: str, revision: str = "", seconds: float = 400) -> str:
    """Wait until a workload is ready (with that revision tested); what `get` prints then."""

    def look() -> bool:
        tested = cluster.outputs(name, "test").get("revision", "")
        return revision in tested and cluster.ready(name)

    wait(f"{name} ready", look, seconds)
    return cluster.show(name)


def unwell(cluster: Cluster, name: str, resource: str, said: str, seconds: float = 300) -> str:
    wait(f"{resource} says {said!r}", lambda: said in cluster.message(name, resource), seconds)
    return cluster.show(name)


def test_a_workload_becomes_an_answering_url(cluster: Cluster, flowers: str):
    print(settled(cluster, flowers))
    assert ask(cluster.url(flowers)) == ("0", "1")


def test_a_commit_to_the_readme_trains_nothing(cluster: Cluster, flowers: str, repository: Repository):
    served = cluster.outputs(flowers, "accept")
    runs = len(cluster.runs(flowers, "accept"))
    revision = repository.commit("Say more", **{"README.md": "More.\n"})
    settled(cluster, flowers, revision)
    assert cluster.outputs(flowers, "train")["revision"] == "1"
    assert cluster.outputs(flowers, "accept") == served
    assert len(cluster.runs(flowers, "accept")) == runs
    assert "trained before" in cluster.log(cluster.runs(flowers, "train")[-1], "train")


def test_a_commit_whose_tests_fail_stops_there_and_the_old_one_serves(
    cluster: Cluster, flowers: str, repository: Repository
):
    repository.commit("Break it", **{"tests/test_wrong.py": FAILING})
    shown = unwell(cluster, flowers, "test", "1 of ")
    print(shown)
    assert "tests/test_wrong.py::test_that_is_wrong" in shown
    assert ask(cluster.url(flowers)) == ("0", "1")
    revision = repository.commit("Mend it", **{"tests/test_wrong.py": PASSING})
    settled(cluster, flowers, revision)


def test_a_worse_model_is_refused_with_reasons(cluster: Cluster, flowers: str):
    cluster.change(flowers, budget="5s", min_accuracy="0.9999", seed="1")
    shown = unwell(cluster, flowers, "train", "refused")
    print(shown)
    assert "is below the floor" in shown
    assert ask(cluster.url(flowers)) == ("0", "1")


def test_a_better_model_takes_over_under_load_without_a_lost_request(
    cluster: Cluster, flowers: str, tmp_path: Path
):
    url = cluster.url(flowers)
    ask(url)
    script = (
        "import sys, time\nfrom tests.e2e.test_chain import ask\nbad = total = 0\n"
        "while True:\n"
        "    total += 1\n"
        "    try:\n        ask(sys.argv[1])\n"
        "    except Exception as error:\n        bad += 1\n        print(error, file=sys.stderr)\n"
        "    if (open(sys.argv[2]).read()):\n        break\n    time.sleep(0.05)\n"
        "print(total, bad)\n"
    )
    flag = tmp_path / "stop"
    flag.touch()
    load = subprocess.Popen(
        [sys.executable, "-c", script, url, flag], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    cluster.change(flowers, budget="8s", min_accuracy="0.8", seed="2")
    wait("the new version", lambda: cluster.outputs(flowers, "train").get("revision", "1") != "1", 300)
    settled(cluster, flowers)
    flag.write_text("stop")
    total, bad = map(int, load.communicate(timeout=90)[0].split())
    print(f"{total} requests during the roll-out, {bad} lost")
    assert bad == 0
    assert total > 20
    assert ask(url)[1] != "1"


def test_an_older_version_is_pinned_and_released(cluster: Cluster, flowers: str):
    newest = ask(cluster.url(flowers))[1]
    for params, expected in (({"model_version": "1"}, "1"), ({"model_version": None}, newest)):
        started = time.monotonic()
        cluster.change(flowers, budget="8s", min_accuracy="0.8", seed="2", **params)
        wait(f"version {expected}", lambda expected=expected: ask(cluster.url(flowers))[1] == expected, 120)
        print(f"version {expected} answers after {time.monotonic() - started:.0f} s")
    settled(cluster, flowers)


@pytest.mark.parametrize(
    ("params", "resource", "said"),
    [
        ({"data": "no-such-data"}, "train", "no-such-data"),
        ({"budget": "abc"}, "train", "budget is 'abc'"),
        ({"tracking_uri": "http://no-such-mlflow:5000"}, "train", "no-such-mlflow"),
        ({"bugdet": "5s"}, "test", "there is no workload param"),
        ({"server_image": "registry.local:5000/server:latest"}, "server-image", "by its digest"),
        ({"model_version": "99"}, "candidate", "models:/flowers/99"),
    ],
)
def test_a_wrong_param_is_named_and_the_old_model_serves(
    cluster: Cluster, flowers: str, params, resource, said
):
    good = {"budget": "8s", "min_accuracy": "0.8", "seed": "2"}
    version = ask(cluster.url(flowers))[1]
    cluster.change(flowers, **{**good, **params})
    try:
        print(unwell(cluster, flowers, resource, said))
        assert ask(cluster.url(flowers))[1] == version
    finally:
        cluster.change(flowers, **{**good, **{name: None for name in params if name not in good}})
    settled(cluster, flowers)


def test_mlflow_may_be_down_for_a_while(cluster: Cluster, flowers: str):
    with scaled("mlflow", "mlflow", 0):
        cluster.change(flowers, budget="8s", min_accuracy="0.8", seed="3")
        time.sleep(20)
    settled(cluster, flowers)


def test_the_pod_of_a_step_may_be_lost(cluster: Cluster, flowers: str):
    cluster.change(flowers, budget="15s", min_accuracy="0.8", seed="4")
    before = {run["metadata"]["name"] for run in cluster.runs(flowers, "train")}

    def training() -> str:
        names = [run for run in cluster.runs(flowers, "train") if run["metadata"]["name"] not in before]
        return names[0]["status"].get("podName", "") if names else ""

    pod = wait("the pod", training)
    wait("it to run", lambda: cluster.get("pod", pod)["status"]["phase"] == "Running")
    cluster.kubectl("delete", "pod", pod, "--wait=false")
    settled(cluster, flowers)


def test_a_folder_of_a_laptop_goes_the_same_way(cluster: Cluster, repository: Repository):
    registry = cluster.environment.get("E2E_SOURCE_REGISTRY")
    if not registry:
        pytest.skip("needs E2E_SOURCE_REGISTRY")
    name = "pushed"
    cluster.delete_if_there(name)
    cluster.create(
        name,
        "--local-path",
        str(repository.folder),
        "--source-image",
        f"{registry}/{name}",
        insecure_registry="true",
        budget="5s",
        min_accuracy="0.8",
    )
    settled(cluster, name)
    assert ask(cluster.url(name)) == ("0", "1")
    cluster.delete(name)


def test_deletion_leaves_nothing_but_the_registry(cluster: Cluster, flowers: str):
    cluster.delete(flowers)
    kinds = "gitrepository,configmap,taskrun,inferenceservice,ksvc,pod"
    chosen = ("-l", f"carto.run/workload-name={flowers}")
    wait("all of it gone", lambda: not cluster.get(kinds, *chosen)["items"], 120)
