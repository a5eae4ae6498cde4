"""Drift of what a workload is sent starts its training; the data being the same, nothing is trained."""

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
from tests.e2e.user import Load, settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@contextmanager
def retraining(cluster: Cluster, workload: str) -> Iterator[str]:
    """config/retraining for a workload, by an overlay as the operator's guide shows it; gives the CronJob's name."""
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
        # By hand alone.
        "data": {
            "WORKLOAD": workload,
            "SCHEDULE": "0 0 1 1 *",
            "IMAGE_CLASSIFIER_TRACKING_URI": tracking_uri,
        },
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
    """Start the CronJob's Job by hand; what its two steps printed."""
    job = new_name("now")
    cluster.kubectl("create", "job", job, f"--from=cronjob/{cron_job}")
    try:
        wait(f"job {job}", lambda: ended(cluster, job), 180)
        log = cluster.kubectl("logs", f"job/{job}", "--all-containers", "--prefix")
        status = cluster.get("job", job)["status"]
        assert status.get("succeeded") == 1, f"{json.dumps(status)}\n{log}"
        return log
    finally:
        cluster.kubectl("delete", "job", job, "--wait=false")


def ended(cluster: Cluster, job: str) -> bool:
    conditions = cluster.get("job", job)["status"].get("conditions", [])
    return any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)


def verdict(url: str) -> str:
    with urllib.request.urlopen(f"{url}/drift", timeout=60) as response:
        return str(json.load(response)["verdict"])


def runs_that_look_again(cluster: Cluster, workload: str) -> list[Any]:
    """The runs of `train` that were started by the workload's param `retrain` as it is now."""
    [text] = [
        item["value"]
        for item in cluster.get("workload", workload)["spec"]["params"]
        if item["name"] == "retrain"
    ]
    assert "(look again: " in text
    return [
        run
        for run in cluster.runs(workload, "train")
        if {"name": "retrain", "value": text} in run["spec"]["params"]
    ]


def test_drift_starts_a_training_that_finds_the_data_as_before_and_the_next_one_waits(
    cluster: Cluster, flowers: str
):
    settled(cluster, flowers)
    served = cluster.outputs(flowers, "accept")
    # The same image again and again is unlike anything that a model was made with.
    with retraining(cluster, flowers) as cron_job, Load(cluster.url(flowers)):
        wait("a full window", lambda: verdict(cluster.url(flowers)) == "drift")
        first, second = run_now(cluster, cron_job), run_now(cluster, cron_job)
    print(first, second, sep="\n")
    assert "looks at its data again: drift" in first
    assert "not retrained: " in second
    begun = wait("its run", lambda: runs_that_look_again(cluster, flowers))
    wait("no training", lambda: "trained before" in cluster.log(begun[0], "train"))
    settled(cluster, flowers)
    assert cluster.outputs(flowers, "accept") == served
