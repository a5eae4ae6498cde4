"""Drift of real servers into a real registry, and what a workload is told then."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from image_classifier.cli import main
from image_classifier.errors import SettingError
from image_classifier.monitoring.drift_detection import DriftVerdict
from image_classifier.package.package import Model, Package, encode_png
from image_classifier.package.reference_statistics import reference_statistics
from image_classifier.registry.events import RETRAINING
from image_classifier.settings import Settings
from image_classifier.steps import upkeep_tmp as upkeep
from image_classifier.steps.fingerprint import forcing
from tests.conftest import write_colour_package
from tests.platform.recorded_cluster import Records, recorded_cluster
from tests.registry.mlflow_helpers import registry_at, small_dataset
from tests.serving.observe.test_drift_windows import noisy
from tests.serving.server_process import running

WINDOW = 50


@pytest.fixture(scope="module")
def settings(tmp_path_factory, empty_database):
    """A registry with a champion that knows what its images look like."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(empty_database, home)
    registry = registry_at(home)
    with registry.start_run(
        parameters={"seed": 0}, tags={"fingerprint": "f"}, dataset=small_dataset()
    ) as run:
        pass
    images, folder = noisy(400), home / "package"
    write_colour_package(folder, run_id=run.id, fingerprint="f")
    answers = Model.load(Package.read(folder), threads=1).probabilities(images)
    shutil.rmtree(folder)
    reference = reference_statistics(images, np.full((400, 3), 16, np.int32), answers)
    write_colour_package(folder, reference=reference, run_id=run.id, fingerprint="f")
    version = registry.register(run.id, folder, tags={"fingerprint": "f"})
    registry.promote(version, actor="test", reason="the first")
    return Settings(home=home, name=registry.name, drift_window=WINDOW)


@pytest.fixture(scope="module")
def served(settings):
    """The folder of the champion, as a server has it."""
    registry = registry_at(settings.home)
    return registry.download(registry.get("champion"), settings.home / "served")


def drift(settings, *servers):
    told = []
    [judged] = upkeep.drift(settings, "", [server.address for server in servers], told.append)
    return judged, told


def send(server, images):
    for image in images:
        assert server.ask("POST", "/predict", encode_png(image)).status == 200


def workload(**params):
    listed = [{"name": name, "value": value} for name, value in params.items()]
    metadata = {"name": "photos", "generation": 1, "resourceVersion": "7"}
    return {"kind": "Workload", "metadata": metadata, "spec": {"params": listed}}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    records = Records([workload(name="colours", data="s3://bucket/photos")])
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with recorded_cluster(records, tmp_path / "kubeconfig"):
        yield records


def events(settings):
    return [event for event in registry_at(settings.home).history() if event.action == RETRAINING]


def test_servers_are_added_up_over_replicas_and_restarts_and_each_image_counts_once(
    settings, served, tmp_path
):
    with running(served, tmp_path / "a") as first, running(served, tmp_path / "b") as second:
        send(first, noisy(10, seed=1))
        send(second, noisy(10, seed=2))
        judged, told = drift(settings, first, second)
        assert (judged.record.images, told) == (20, [])
        assert judged.judgement.verdict is DriftVerdict.TOO_FEW_IMAGES
        send(second, noisy(5, seed=3))
        judged, _ = drift(settings, first, second)
        assert judged.record.images == 25
        first.process.terminate()
        first.process.wait(30)
    with running(served, tmp_path / "c") as third:
        send(third, noisy(WINDOW - 25, seed=4) // 2)
        # The first is gone, and said to be.
        judged, told = drift(settings, third, first)
        assert judged.record.images == WINDOW
        assert "does not answer" in told[0]
    assert judged.judgement.verdict is DriftVerdict.DRIFT
    assert registry_at(settings.home).get("1").tags["drift"] == "drift"
    assert "brightness is lower" in registry_at(settings.home).get("1").tags["drift_reason"]


def test_the_verdict_is_told_again_where_no_server_runs(settings):
    command = ["drift", "--home", str(settings.home), "--name", settings.name]
    command += ["--drift-window", str(WINDOW), "--server", "http://127.0.0.1:9", "--json"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    [told] = json.loads(result.stdout)
    assert (told["version"], told["verdict"], told["images"]) == (1, "drift", WINDOW)
    assert "no server of colours was read" in result.stderr


def test_a_server_of_another_model_is_left_out(settings, tmp_path):
    folder = tmp_path / "other"
    write_colour_package(folder)
    with running(folder, tmp_path / "log") as server:
        judged, told = drift(settings, server)
    assert "no version of colours" in told[0]
    assert judged.record.images == WINDOW


def test_drift_sets_the_workloads_param_once_and_the_history_says_why(settings, cluster):
    told = []
    assert upkeep.retrain(settings, "photos", True, False, told.append)
    [patch] = cluster.patches
    params = {param["name"]: param["value"] for param in patch["spec"]["params"]}
    assert (params["name"], params["data"]) == ("colours", "s3://bucket/photos")
    assert "drift: " in params["retrain"]
    # So the same data is not trained on again.
    assert forcing(params["retrain"]) == ""
    assert patch["metadata"]["resourceVersion"] == "7"
    [event] = events(settings)
    assert (event.version, event.reason.split(":")[0]) == (1, "drift")
    assert not upkeep.retrain(settings, "photos", True, False, told.append)
    assert len(cluster.patches) == len(events(settings)) == 1
    assert told[-1].startswith("not retrained: ")


def test_a_forced_retraining_trains_on_the_same_data_too(settings, cluster):
    later = replace(settings, retrain_every=1e-6, retrain_pause=0)
    assert upkeep.retrain(later, "photos", False, True, lambda _: None)
    [patch] = cluster.patches
    [text] = [param["value"] for param in patch["spec"]["params"] if param["name"] == "retrain"]
    assert forcing(text) == text != ""


def test_a_pinned_workload_is_left_alone(settings, cluster):
    cluster.objects[:] = [workload(name="colours", model_version="1")]
    told = []
    assert not upkeep.retrain(replace(settings, retrain_every=1e-6), "photos", False, False, told.append)
    assert told == ["not retrained: photos is pinned to version 1"]
    assert cluster.patches == []


def test_a_schedule_of_nothing_and_a_workload_that_is_not_there_are_said(settings, cluster):
    with pytest.raises(SettingError, match="give --if-drifted"):
        upkeep.retrain(settings, "photos", False, False, lambda _: None)
    result = CliRunner().invoke(main, ["retrain", "cats", "--if-drifted", "--home", str(settings.home)])
    assert result.exit_code == 1
    assert "there is no workload cats in namespace team" in result.output
    result = CliRunner().invoke(main, ["drift", "--home", str(settings.home)])
    assert "name a workload, or a server" in result.output
