"""Many faults are planted at the same time, and `why` names the cause of each."""

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

from image_classifier.platform.cluster import Cluster as ClusterClient
from image_classifier.platform.diagnosis.collector import collect_evidence
from image_classifier.platform.diagnosis.diagnosis import Diagnosis, Outcome, diagnose
from image_classifier.platform.diagnosis.presentation import describe_diagnosis
from tests.e2e.cluster import BRIEF, ROOT, Cluster, make_repository, new_name, run, wait
from tests.e2e.user import wait_until_ready
from tests.platform.faults import (
    DAMAGED,
    FAULTS,
    FAULTS_BEFORE_TRAINING,
    FAULTS_OF_SERVING,
    FAULTS_OF_TRAINING,
    REFUSED,
    Fault,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
TEST = "def test_{outcome}():\n    assert {outcome}\n"
MODEL = BRIEF
SMALL = ("--request-cpu", "10m", "--request-memory", "64Mi")
"""Requests that let many servers run at the same time."""
NAMESPACES = {
    "bare": (),
    "full": ("create", "quota", "no-pods", "--hard=pods=0"),
    "account": ("delete", "serviceaccount", "image-classifier-steps"),
    "task": ("delete", "task", "image-classifier-test"),
}
"""Suffixes of namespaces, and the kubectl command that breaks each after it is prepared; the first is not prepared."""


@dataclass
class Planted:
    """The cluster with planted faults."""

    cluster: Cluster
    repositories: dict[str, str]
    healthy: str
    """A workload without a fault, whose model the pinned workloads serve."""
    version: str = "1"
    """Of its model."""
    names: dict[str, str] = field(default_factory=dict)
    """Fault to workload."""

    def namespace(self, fault: Fault) -> Cluster:
        suffix = f"-{fault.namespace}" if fault.namespace else ""
        return Cluster(self.cluster.environment, f"{self.cluster.namespace}{suffix}")

    def plant(self, name: str, fault: Fault) -> None:
        workload = self.names[name] = new_name(name)
        environment = self.cluster.environment
        image = environment["E2E_SERVER_IMAGE"].partition("@")[0]
        params = {**MODEL, **fault.params}
        if "model_version" in params:
            params["name"] = self.healthy
        filled = {
            key: value and value.format(image=image, mlflow=environment["E2E_MLFLOW_IMAGE"], version=self.version)
            for key, value in params.items()
        }
        source = ("--git-repo", self.address(fault.repository), "--git-branch", fault.branch)
        self.namespace(fault).create(workload, *source, *SMALL, *fault.arguments, **filled)

    def address(self, repository: str) -> str:
        if "://" in repository:
            return repository
        return self.repositories.get(repository) or f"{self.cluster.environment['E2E_GIT']}/{repository}.git"

    def wait_for(self, name: str, fault: Fault) -> tuple[Diagnosis, str]:
        """The diagnosis when it names the cause of the fault, and its text."""

        def look() -> Diagnosis | None:
            diagnosis = diagnosis_of(self.namespace(fault), self.names[name])
            cause = diagnosis.cause.name if diagnosis.cause else ""
            return diagnosis if cause == fault.cause else None

        diagnosis = wait(f"{name} is {fault.cause}", look, 400)
        text = "\n".join(describe_diagnosis(diagnosis))
        print(text)
        return diagnosis, text


def diagnosis_of(cluster: Cluster, workload: str) -> Diagnosis:
    client = ClusterClient.connect(cluster.namespace)
    return diagnose(collect_evidence(client, workload, datetime.now(UTC)))


def why(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "image_classifier.cli", "why", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)


def repositories(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Repositories with the project's code and a test that passes or fails, and one without code."""
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
    """All faults; those of serving are planted when there is a model."""
    planted = Planted(cluster, repositories(cluster, tmp_path_factory.mktemp("repositories")), new_name("healthy"))
    source = ("--git-repo", planted.address("code"), "--git-branch", "main")
    cluster.create(planted.healthy, *source, *SMALL, **MODEL)
    cluster.kubectl("create", "service", "clusterip", "mlflow-down", "--tcp=5000")
    for name, change in NAMESPACES.items():
        namespace = Cluster(cluster.environment, f"{cluster.namespace}-{name}")
        if change:
            namespace.prepare("restricted")
            namespace.kubectl(*change)
        else:
            run("kubectl", "create", "namespace", namespace.namespace)
    try:
        # Before the other trainings start, which would slow it down.
        wait("a model", lambda: cluster.outputs(planted.healthy, "train"), 400)
        for name, fault in {**FAULTS_BEFORE_TRAINING, **FAULTS_OF_TRAINING, **FAULTS_OF_SERVING}.items():
            planted.plant(name, fault)
        yield planted
    finally:
        names = {name for fault, name in planted.names.items() if not FAULTS[fault].namespace}
        cluster.tanzu("delete", *names, planted.healthy, "--yes")
        cluster.kubectl("delete", "service", "mlflow-down")
        for name in NAMESPACES:
            run("kubectl", "delete", "namespace", f"{cluster.namespace}-{name}", "--wait=false")


@pytest.mark.parametrize("name", {**FAULTS_BEFORE_TRAINING, **FAULTS_OF_TRAINING, **FAULTS_OF_SERVING})
def test_the_cause_of_a_fault_is_recognized_and_located(planted: Planted, name: str):
    fault = FAULTS[name]
    diagnosis, text = planted.wait_for(name, fault)
    assert (diagnosis.resource.name if diagnosis.resource else "") == fault.resource
    assert fault.text in text
    assert diagnosis.symptoms


def test_a_healthy_workload_shows_its_live_version(planted: Planted):
    wait_until_ready(planted.cluster, planted.healthy)
    answer = why(planted.healthy, "--namespace", planted.cluster.namespace)
    print(answer.stdout)
    assert answer.returncode == 0
    assert f"{planted.healthy}: healthy" in answer.stdout
    assert f"live        models:/{planted.healthy}/1 since 2" in answer.stdout


def test_a_pinned_workload_names_the_param(planted: Planted):
    planted.cluster.change(planted.healthy, model_version="1")
    wait_until_ready(planted.cluster, planted.healthy)
    text = "\n".join(describe_diagnosis(diagnosis_of(planted.cluster, planted.healthy)))
    print(text)
    assert "the param model_version pins version 1" in text


def test_a_refused_version_is_explained_with_the_rules_of_the_gate(planted: Planted):
    planted.names["refused"] = planted.healthy
    planted.cluster.change(planted.healthy, **{**MODEL, **REFUSED.params})
    diagnosis, text = planted.wait_for("refused", REFUSED)
    assert "is below the minimum of 99.99 %" in text
    assert "FAIL  min-accuracy" in text
    assert f"models:/{planted.healthy}/1" in text
    assert "it stays live" in text
    assert diagnosis.outcome is Outcome.FAILING


def test_a_damaged_model_is_recognized(planted: Planted):
    planted.cluster.damage(planted.healthy, "1")
    planted.plant("damaged", DAMAGED)
    diagnosis, text = planted.wait_for("damaged", DAMAGED)
    assert diagnosis.resource
    assert diagnosis.resource.name == DAMAGED.resource
    assert DAMAGED.text in text


def test_read_permissions_suffice_for_a_diagnosis(planted: Planted, tmp_path: Path):
    cluster = planted.cluster
    cluster.kubectl("create", "serviceaccount", "reader")
    cluster.kubectl(
        "create", "rolebinding", "reader", "--clusterrole=view", f"--serviceaccount={cluster.namespace}:reader"
    )
    try:
        user = {"token": cluster.kubectl("create", "token", "reader")}
        config = yaml.safe_load(run("kubectl", "config", "view", "--raw", "--minify", "--flatten"))
        config["users"] = [{"name": config["users"][0]["name"], "user": user}]
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        for name in ("failing", "no-version"):
            answer = why(
                planted.names[name], "--json", "--namespace", cluster.namespace, KUBECONFIG=str(tmp_path / "config")
            )
            content = json.loads(answer.stdout)
            assert answer.returncode == 1
            assert content["cause"]["name"] == FAULTS[name].cause
            assert content["unread"] == []
            assert {"result", "container"} & {sign["where"] for sign in content["cause"]["signs"]}
    finally:
        cluster.kubectl("delete", "rolebinding/reader", "serviceaccount/reader")


def test_a_missing_workload_is_reported_with_the_existing_ones(planted: Planted):
    answer = why("no-such-workload", "--namespace", planted.cluster.namespace)
    assert answer.returncode == 1
    assert "error: there is no workload no-such-workload" in answer.stderr
    assert "there are: " in answer.stderr
