import pytest

from image_classifier.errors import ClusterError, ConflictError
from image_classifier.platform.workload import model_name, params_of, require_workload, set_params
from tests.platform.recorded_cluster import Records


def a_workload(**params):
    return {
        "kind": "Workload",
        "metadata": {"name": "flowers", "generation": 3, "resourceVersion": "10"},
        "spec": {"params": [{"name": name, "value": value} for name, value in params.items()]},
    }


@pytest.fixture
def records():
    return Records([a_workload(budget="10s", retrain="once")])


def test_a_workload_that_is_not_there_is_named_with_those_that_are(cluster):
    with pytest.raises(ClusterError, match="no workload weeds in namespace team, only: flowers; --namespace"):
        require_workload(cluster, "weeds")


def test_the_registered_model_has_the_workloads_name_or_that_of_its_param():
    assert model_name(a_workload()) == "flowers"
    assert model_name(a_workload(name="blossoms")) == "blossoms"


def test_params_are_set_and_removed_and_the_others_stay(cluster, records):
    set_params(cluster, require_workload(cluster, "flowers"), {"retrain": None, "seed": "2"})
    assert params_of(records.objects[0]) == {"budget": "10s", "seed": "2"}


def test_a_param_is_not_set_over_what_somebody_else_changed(cluster, records):
    workload = require_workload(cluster, "flowers")
    records.meanwhile = {"metadata": {"resourceVersion": "11", "generation": 4}}
    with pytest.raises(ConflictError, match="somebody else changed workload flowers at the same time"):
        set_params(cluster, workload, {"seed": "2"})
    assert params_of(records.objects[0]) == {"budget": "10s", "retrain": "once"}
