from dataclasses import replace

import pytest
from click.testing import CliRunner

from image_classifier.cli import main
from image_classifier.errors import SettingError
from image_classifier.registry.events import RETRAINING
from image_classifier.settings import Settings
from image_classifier.steps.fingerprint import forcing
from image_classifier.steps.retrain import retrain
from tests.platform.api_server import ClusterState, fake_cluster
from tests.registry.mlflow_helpers import register_champions
from tests.steps.chain import Lines
from tests.steps.drift_samples import store_drift

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(home, registry, tmp_path):
    """A registry with a champion whose images drifted."""
    register_champions(registry, tmp_path, 1)
    store_drift(registry)
    return Settings(home=home, name=registry.name)


@pytest.fixture
def cluster(tmp_path, monkeypatch, registry):
    state = ClusterState([workload(name=registry.name, data="s3://bucket/photos")])
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with fake_cluster(state, tmp_path / "kubeconfig"):
        yield state


def workload(**params):
    metadata = {"name": "photos", "generation": 1, "resourceVersion": "7"}
    spec = {"params": [{"name": name, "value": value} for name, value in params.items()]}
    return {"kind": "Workload", "metadata": metadata, "spec": spec}


def patched_params(cluster):
    [patch] = cluster.patches
    assert patch["metadata"]["resourceVersion"] == "7"
    return {param["name"]: param["value"] for param in patch["spec"]["params"]}


def retrainings(registry):
    return [event for event in registry.history.events() if event.action == RETRAINING]


def test_drift_sets_the_workloads_param_once_and_is_recorded(registry, settings, cluster):
    lines = Lines()
    assert retrain(settings, "photos", True, False, lines)
    params = patched_params(cluster)
    assert (params["name"], params["data"]) == (registry.name, "s3://bucket/photos")
    assert "drift: " in params["retrain"]
    # The same data is not trained on again.
    assert forcing(params["retrain"]) == ""
    [event] = retrainings(registry)
    assert (event.version, event.reason.split(":")[0]) == (1, "drift")
    assert not retrain(settings, "photos", True, False, lines)
    assert len(cluster.patches) == len(retrainings(registry)) == 1
    assert lines[-1].startswith("not retrained: ")


def test_a_forced_retraining_trains_on_the_same_data(settings, cluster):
    overdue = replace(settings, retrain_every=1e-6, retrain_pause=0)
    assert retrain(overdue, "photos", False, True, Lines())
    text = patched_params(cluster)["retrain"]
    assert forcing(text) == text != ""


def test_a_pinned_workload_is_not_retrained(settings, cluster):
    cluster.objects[:] = [workload(name=settings.name, model_version="1")]
    lines = Lines()
    assert not retrain(replace(settings, retrain_every=1e-6), "photos", False, False, lines)
    assert lines == ["not retrained: photos is pinned to version 1"]
    assert cluster.patches == []


def test_a_model_without_a_live_version_is_not_retrained(home, registry, cluster):
    lines = Lines()
    assert not retrain(Settings(home=home, name=registry.name), "photos", True, False, lines)
    assert lines == [f"not retrained: {registry.name} has no live version yet"]


def test_a_policy_without_a_reason_and_a_missing_workload_are_errors(settings, cluster):
    with pytest.raises(SettingError, match="give --if-drifted, --retrain-every 30d, or both"):
        retrain(settings, "photos", False, False, Lines())
    result = CliRunner().invoke(main, ["retrain", "cats", "--if-drifted", "--home", str(settings.home)])
    assert result.exit_code == 1
    assert "cats" in result.output
    assert "namespace team" in result.output
