"""Input drift starts a training run, which trains nothing because the data is unchanged."""

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.cluster import ROOT, Cluster, new_name, wait
from tests.e2e.user import Load, wait_until_ready

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@contextmanager
def retraining(cluster: Cluster, workload: str) -> Iterator[str]:
    """config/retraining for a workload, with an overlay as in docs/platform-operator.md; yields the CronJob's name."""
    prefix = f"{workload}-"
    image, _, digest = cluster.environment["E2E_TRAINER_IMAGE"].partition("@")
    overlay = {
        "namePrefix": prefix,
        "resources": ["settings.yaml"],
        "components": ["../config/retraining"],
        "images": [{"name": "image-classifier-trainer", "newName": image, "digest": digest}],
    }
    chain = yaml.safe_load((ROOT / "config" / "chain" / "supply-chain.yaml").read_text())
    [tracking_uri] = [item["default"] for item in chain["spec"]["params"] if item["name"] == "tracking_uri"]
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "image-classifier-retraining"},
        # Never at its own time: the test starts the Job.
        "data": {"WORKLOAD": workload, "SCHEDULE": "0 0 1 1 *", "IMAGE_CLASSIFIER_TRACKING_URI": tracking_uri},
    }
    folder = Path(tempfile.mkdtemp(dir=ROOT, prefix=".e2e."))
    try:
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        cluster.kubectl("apply", "-k", str(folder))
        try:
            yield f"{prefix}image-classifier-retraining"
        finally:
            cluster.kubectl("delete", "-k", str(folder))
    finally:
        shutil.rmtree(folder)


def run_now(cluster: Cluster, cron_job: str) -> str:
    """Run the CronJob's Job now; returns the logs of its two containers."""
    job = new_name("now")
    cluster.kubectl("create", "job", job, f"--from=cronjob/{cron_job}")
    try:
        wait(f"job {job}", lambda: is_finished(cluster, job), 180)
        log = cluster.kubectl("logs", f"job/{job}", "--all-containers", "--prefix")
        status = cluster.get("job", job)["status"]
        assert status.get("succeeded") == 1, f"{json.dumps(status)}\n{log}"
        return log
    finally:
        cluster.kubectl("delete", "job", job, "--wait=false")


def is_finished(cluster: Cluster, job: str) -> bool:
    conditions = cluster.get("job", job)["status"].get("conditions", [])
    return any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)


def drift_verdict(url: str) -> str:
    with urllib.request.urlopen(f"{url}/drift", timeout=60) as response:
        return str(json.load(response)["verdict"])


def runs_after_retrain(cluster: Cluster, workload: str) -> list[Any]:
    """The runs of `train` with the current value of the workload's param `retrain`."""
    [text] = [
        item["value"] for item in cluster.get("workload", workload)["spec"]["params"] if item["name"] == "retrain"
    ]
    assert "(look again: " in text
    return [
        run for run in cluster.runs(workload, "train") if {"name": "retrain", "value": text} in run["spec"]["params"]
    ]


def test_drift_starts_one_training_run_which_finds_unchanged_data(cluster: Cluster, flowers: str):
    wait_until_ready(cluster, flowers)
    accepted = cluster.outputs(flowers, "accept")
    # The same image over and over differs from any training data.
    with retraining(cluster, flowers) as cron_job, Load(cluster.url(flowers)):
        wait("a full window", lambda: drift_verdict(cluster.url(flowers)) == "drift")
        first, second = run_now(cluster, cron_job), run_now(cluster, cron_job)
    print(first, second, sep="\n")
    assert "training again if the data changed; reason: drift" in first
    assert "not retrained: " in second
    runs = wait("its run", lambda: runs_after_retrain(cluster, flowers))
    wait("no training", lambda: "already trained" in cluster.log(runs[0], "train"))
    wait_until_ready(cluster, flowers)
    assert cluster.outputs(flowers, "accept") == accepted
