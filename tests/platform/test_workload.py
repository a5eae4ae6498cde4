import pytest

from image_classifier.errors import ClusterError, ConflictError
from image_classifier.platform.workload import model_name, params_of, require_workload, set_params
from tests.platform.api_server import ClusterState


def workload_object(**params):
    return {
        "kind": "Workload",
        "metadata": {"name": "flowers", "generation": 3, "resourceVersion": "10"},
        "spec": {"params": [{"name": name, "value": value} for name, value in params.items()]},
    }


@pytest.fixture
def state():
    return ClusterState([workload_object(budget="10s", retrain="once")])


def test_a_missing_workload_is_reported_with_the_existing_ones(cluster, state):
    with pytest.raises(ClusterError, match="no workload weeds in namespace team; there are: flowers"):
        require_workload(cluster, "weeds")
    state.objects.clear()
    with pytest.raises(ClusterError, match="no workload weeds in namespace team; it has none; --namespace"):
        require_workload(cluster, "weeds")


def test_the_registered_model_has_the_name_of_the_workload_or_of_its_param():
    assert model_name(workload_object()) == "flowers"
    assert model_name(workload_object(name="blossoms")) == "blossoms"


def test_params_are_set_and_removed_and_the_others_stay(cluster, state):
    set_params(cluster, require_workload(cluster, "flowers"), {"retrain": None, "seed": "2"})
    assert params_of(state.objects[0]) == {"budget": "10s", "seed": "2"}


def test_a_param_does_not_overwrite_a_concurrent_change(cluster, state):
    workload = require_workload(cluster, "flowers")
    state.concurrent_change = {"metadata": {"resourceVersion": "11", "generation": 4}}
    with pytest.raises(ConflictError, match="workload flowers was changed by someone else at the same time"):
        set_params(cluster, workload, {"seed": "2"})
    assert params_of(state.objects[0]) == {"budget": "10s", "retrain": "once"}
