"""Faults are planted on the platform, all at about the same time, and `why` names the cause of each."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from image_classifier.platform.cluster import Cluster as Asked
from image_classifier.platform.diagnosis.diagnosis import Diagnosis, Health, diagnose, in_words
from image_classifier.platform.diagnosis.walk import collect
from tests.e2e.cluster import ROOT, Cluster, make_repository, new_name, run, wait
from tests.e2e.user import settled
from tests.platform.faults import DAMAGED, FAULTS, OF_SERVING, OF_THE_START, OF_TRAINING, REFUSED, Fault

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
TEST = "def test_{outcome}():\n    assert {outcome}\n"
MODEL = {"budget": "1.5s", "min_accuracy": "0.3"}
SMALL = ("--request-cpu", "10m", "--request-memory", "64Mi")
"""So that many servers have room at a time."""
PLACES = {
    "bare": (),
    "full": ("create", "quota", "no-pods", "--hard=pods=0"),
    "account": ("delete", "serviceaccount", "image-classifier-steps"),
    "task": ("delete", "task", "image-classifier-test"),
}
"""Namespaces, and what is done to each once it is prepared; the first is not."""


@dataclass
class Planted:
    """The platform with faults in it."""

    cluster: Cluster
    repositories: dict[str, str]
    healthy: str
    """A workload with nothing wrong, whose model the pinned ones serve."""
    version: str = "1"
    """Of that model."""
    names: dict[str, str] = field(default_factory=dict)
    """Fault to workload."""

    def place(self, fault: Fault) -> Cluster:
        suffix = f"-{fault.place}" if fault.place else ""
        return Cluster(self.cluster.environment, f"{self.cluster.namespace}{suffix}")

    def plant(self, name: str, fault: Fault) -> None:
        workload = self.names[name] = new_name(name)
        environment = self.cluster.environment
        image = environment["E2E_SERVER_IMAGE"].partition("@")[0]
        params = {**MODEL, **fault.params}
        if "model_version" in params:
            params["name"] = self.healthy
        filled = {
            key: value
            and value.format(image=image, mlflow=environment["E2E_MLFLOW_IMAGE"], version=self.version)
            for key, value in params.items()
        }
        source = ("--git-repo", self.address(fault.repository), "--git-branch", fault.branch)
        self.place(fault).create(workload, *source, *SMALL, *fault.arguments, **filled)

    def address(self, repository: str) -> str:
        if "://" in repository:
            return repository
        return self.repositories.get(repository) or f"{self.cluster.environment['E2E_GIT']}/{repository}.git"

    def wait_for(self, name: str, fault: Fault) -> tuple[Diagnosis, str]:
        """The diagnosis, once it names the cause of the fault, and its words."""

        def look() -> Diagnosis | None:
            diagnosis = asked(self.place(fault), self.names[name])
            named = diagnosis.cause.name if diagnosis.cause else ""
            return diagnosis if named == fault.cause else None

        diagnosis = wait(f"{name} is {fault.cause}", look, 400)
        words = "\n".join(in_words(diagnosis))
        print(words)
        return diagnosis, words


def asked(cluster: Cluster, workload: str) -> Diagnosis:
    return diagnose(collect(Asked.connect(cluster.namespace), workload, datetime.now(UTC)))


def why(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "image_classifier.cli", "why", *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def repositories(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Repositories of the project's code with one quick test: one that passes, one that fails; and an empty one."""
    addresses = {}
    for name, outcome in (("code", "True"), ("failing", "False"), ("empty", "")):
        (folder / name).mkdir()
        repository = make_repository(cluster.environment, new_name(name), folder / name)
        if outcome:
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / "src", folder / name / "src", ignore=ignored)
            repository.commit("The code", **{"tests/test_one.py": TEST.format(outcome=outcome)})
        addresses[name] = repository.address
    return addresses


@pytest.fixture(scope="module")
def planted(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """Everything is planted; what serves a model, once there is one."""
    made = Planted(
        cluster, repositories(cluster, tmp_path_factory.mktemp("repositories")), new_name("healthy")
    )
    source = ("--git-repo", made.address("code"), "--git-branch", "main")
    cluster.create(made.healthy, *source, *SMALL, **MODEL)
    cluster.kubectl("create", "service", "clusterip", "mlflow-down", "--tcp=5000")
    for name, change in PLACES.items():
        place = Cluster(cluster.environment, f"{cluster.namespace}-{name}")
        if change:
            place.prepare("restricted")
            place.kubectl(*change)
        else:
            run("kubectl", "create", "namespace", place.namespace)
    try:
        # A training among many others comes to a poor model.
        wait("a model", lambda: cluster.outputs(made.healthy, "train"), 400)
        for name, fault in {**OF_THE_START, **OF_TRAINING, **OF_SERVING}.items():
            made.plant(name, fault)
        yield made
    finally:
        here = {name for fault, name in made.names.items() if not FAULTS[fault].place} | {made.healthy}
        cluster.tanzu("delete", *here, "--yes")
        cluster.kubectl("delete", "service", "mlflow-down")
        for name in PLACES:
            run("kubectl", "delete", "namespace", f"{cluster.namespace}-{name}", "--wait=false")


@pytest.mark.parametrize("name", {**OF_THE_START, **OF_TRAINING, **OF_SERVING})
def test_the_cause_of_a_fault_is_named_with_where_and_what_shows_it(planted: Planted, name: str):
    fault = FAULTS[name]
    diagnosis, words = planted.wait_for(name, fault)
    assert (diagnosis.resource.name if diagnosis.resource else "") == fault.resource
    assert fault.said in words
    assert diagnosis.signs


def test_of_a_healthy_workload_it_is_said_what_serves_since_when(planted: Planted):
    settled(planted.cluster, planted.healthy)
    answer = why(planted.healthy, "--namespace", planted.cluster.namespace)
    print(answer.stdout)
    assert answer.returncode == 0
    assert "all is well" in answer.stdout
    assert f"serves      models:/{planted.healthy}/1 since 2" in answer.stdout


def test_of_a_pinned_workload_it_is_said_that_the_param_pins_it(planted: Planted):
    planted.cluster.change(planted.healthy, model_version="1")
    settled(planted.cluster, planted.healthy)
    words = "\n".join(in_words(asked(planted.cluster, planted.healthy)))
    print(words)
    assert "the param model_version asks for version 1" in words


def test_why_an_older_version_still_serves_is_answered_with_the_reasons_of_the_gate(planted: Planted):
    planted.names["refused"] = planted.healthy
    planted.cluster.change(planted.healthy, **{**MODEL, **REFUSED.params})
    diagnosis, words = planted.wait_for("refused", REFUSED)
    assert "below the floor of 99.99%" in words
    assert "FAIL  min-accuracy" in words
    assert f"models:/{planted.healthy}/1" in words
    assert "goes on serving" in words
    assert diagnosis.outcome is Health.TROUBLE


def test_a_damaged_model_is_named(planted: Planted):
    planted.cluster.spoil(planted.healthy, "1")
    planted.plant("damaged", DAMAGED)
    diagnosis, words = planted.wait_for("damaged", DAMAGED)
    assert diagnosis.resource
    assert diagnosis.resource.name == DAMAGED.resource
    assert DAMAGED.said in words


def test_a_developer_who_may_only_look_is_told_as_much(planted: Planted, tmp_path: Path):
    cluster = planted.cluster
    cluster.kubectl("create", "serviceaccount", "looker")
    cluster.kubectl(
        "create",
        "rolebinding",
        "looker",
        "--clusterrole=view",
        f"--serviceaccount={cluster.namespace}:looker",
    )
    try:
        user = {"token": cluster.kubectl("create", "token", "looker")}
        config = yaml.safe_load(run("kubectl", "config", "view", "--raw", "--minify", "--flatten"))
        config["users"] = [{"name": config["users"][0]["name"], "user": user}]
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        for name in ("failing", "no-version"):
            answer = why(
                planted.names[name],
                "--json",
                "--namespace",
                cluster.namespace,
                KUBECONFIG=str(tmp_path / "config"),
            )
            content = json.loads(answer.stdout)
            assert answer.returncode == 1
            assert content["cause"]["name"] == FAULTS[name].cause
            assert content["unread"] == []
            assert {"result", "container"} & {sign["where"] for sign in content["cause"]["signs"]}
    finally:
        cluster.kubectl("delete", "rolebinding/looker", "serviceaccount/looker")


def test_a_workload_that_does_not_exist_is_told_apart_with_those_that_do(planted: Planted):
    answer = why("no-such-workload", "--namespace", planted.cluster.namespace)
    assert answer.returncode == 1
    assert "error: there is no workload no-such-workload" in answer.stderr
    assert "there are: " in answer.stderr
