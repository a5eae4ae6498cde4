"""Real trainings of the digits, recorded in a local registry."""

import shutil
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from image_classifier.backbones import SHIPPED
from image_classifier.datasets import Dataset, prepare
from image_classifier.errors import TrainingError, TuningError
from image_classifier.registry import Registry
from image_classifier.search import objective as module
from image_classifier.search.objective import Objective
from image_classifier.search.study import Search
from image_classifier.settings import Recipe
from image_classifier.training import REPORT_POINTS, Plan, fit
from image_classifier.training.learning_curve import OnReport
from image_classifier.training.trained import Trained
from tests.search.options import ended_trial, options_for
from tests.training.samples import clock, stripes

STEPS = 100
"""Readings of the clock in a training on a backbone."""

pytestmark = pytest.mark.slow


class Searching:
    """A search whose trials run in this process."""

    def __init__(self, home: Path, study: str, dataset: Dataset | None = None, plan: Plan | None = None) -> None:
        self.options = options_for(home, study=study, **({"plan": plan} if plan else {}))
        dataset, registry = dataset or prepare(self.options.request), Registry(self.options.registry)
        self.parent = registry.runs.start(parameters={}, tags={}, dataset=dataset).id
        self.objective = Objective(self.options.plan, dataset, registry, self.parent)
        self.study = Search(self.options, InMemoryStorage()).study
        self._client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")

    def train(self, *, seed: int = 0, **recipe: float) -> tuple[optuna.trial.FrozenTrial, StoredRun]:
        """Run a trial of a recipe; returns it and its run."""
        defaults = Recipe().values(on_backbone=self.options.plan.backbone is not None)
        self.study.enqueue_trial({**defaults, **recipe}, {"seed": seed})
        self.study.optimize(self.objective, n_trials=1, catch=(TrainingError,))
        return self.study.trials[-1], self.run_of(self.study.trials[-1].number)

    def run_of(self, number: int) -> StoredRun:
        experiment = self._client.get_run(self.parent).info.experiment_id
        condition = f"tags.`mlflow.parentRunId` = '{self.parent}' and tags.trial = '{number}'"
        (run,) = self._client.search_runs([experiment], condition)
        return run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    home = tmp_path_factory.mktemp("objective")
    shutil.copy(empty_database, home / "mlflow.db")
    return home


@pytest.fixture
def searching(home, request) -> Searching:
    return Searching(home, request.node.name)


@pytest.fixture
def on_backbone(home, request, monkeypatch) -> Searching:
    """Trainings on a backbone, on few images; the time is counted by the clock of the tests."""

    def fit_by_clock(dataset: Dataset, plan: Plan, *, on_report: OnReport, shared_features: Path | None) -> Trained:
        return fit(
            dataset, plan, on_report=on_report, clock=clock(plan.budget / STEPS), shared_features=shared_features
        )

    monkeypatch.setattr(module, "fit", fit_by_clock)
    # The budget is long enough for fine-tuning on any machine.
    plan = Plan(1e4, 0, 0.2, Recipe(), threads=1, backbone=SHIPPED["efficientnet-lite0"])
    return Searching(home, request.node.name, stripes(32, images=200, classes=40), plan)


def test_a_training_on_a_backbone_is_a_trial_of_its_own_hyperparameters(on_backbone):
    trial, run = on_backbone.train(max_stages=1, fine_tuning_rate=2e-3)
    assert trial.state == TrialState.COMPLETE
    assert run.data.params["recipe"] == "fine_tuning_rate=0.002 max_stages=1"
    assert {name: run.data.params[name] for name in ("stages", "max_stages", "fine_tuning_rate", "batch_size")} == {
        "stages": "1",
        "max_stages": "1",
        "fine_tuning_rate": "0.002",
        "batch_size": "32",
    }
    assert "width" not in run.data.params
    assert int(run.data.params["steps"]) > 0
    assert run.data.metrics["accuracy"] == trial.value


def test_a_bad_fine_tuning_is_pruned_before_it_ends(on_backbone):
    for number in range(5):
        curve = dict.fromkeys(range(1, REPORT_POINTS + 1), 1.0)
        on_backbone.study.add_trial(ended_trial(TrialState.COMPLETE, 1.0, values=curve, seed=number))
    trial, run = on_backbone.train(fine_tuning_rate=2.5e-4, fine_tuning_head_rate=7.5e-4, max_stages=1)
    assert trial.state == TrialState.PRUNED
    assert run.data.tags["state"] == "pruned"
    assert run.data.metrics["learning_rate"] > 0


def test_a_search_on_a_backbone_ends_if_no_recipe_has_an_effect(on_backbone):
    dataset = stripes(64, images=100, classes=2)
    on_backbone.objective = replace(on_backbone.objective, dataset=dataset)
    with pytest.raises(TuningError, match="makes no error on the validation split"):
        on_backbone.train()


def test_a_training_is_a_complete_trial_and_a_finished_run_with_its_curve(searching):
    trial, run = searching.train(width=0.5)
    assert trial.state == TrialState.COMPLETE
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "complete")
    assert run.info.run_name == "trial 0"
    assert run.data.params["recipe"] == trial.user_attrs["recipe"] == "width=0.5"
    assert run.data.params["head_rate"] == "0.3"
    assert int(run.data.params["steps"]) > 0
    assert run.data.metrics["accuracy"] == trial.value
    assert {"validation_accuracy", "validation_loss", "seconds"} <= set(run.data.metrics)
    assert len(trial.intermediate_values) >= 2
    assert trial.user_attrs["images"] == 140
    assert trial.user_attrs["loss"] > 0


def test_a_training_on_a_fresh_seed_records_the_seed(searching):
    trial, run = searching.train(seed=7)
    assert trial.user_attrs["seed"] == 7
    assert run.data.params["seed"] == "7"


@pytest.mark.filterwarnings("ignore:Fixed parameter label_smoothing")
def test_a_training_that_fails_is_a_failed_run_with_the_reason(searching):
    trial, run = searching.train(label_smoothing=2.0)
    assert trial.state == TrialState.FAIL
    assert "label_smoothing must be between" in trial.user_attrs["reason"]
    assert (run.info.status, run.data.tags["state"]) == ("FAILED", "failed")
    assert run.data.tags["reason"] == trial.user_attrs["reason"]


def test_a_search_ends_if_the_default_recipe_cannot_be_trained(searching):
    plan = replace(searching.options.plan, budget=1e-9)
    searching.objective = replace(searching.objective, plan=plan)
    with pytest.raises(TuningError, match="the default recipe cannot be trained: .* too short"):
        searching.train()
    assert searching.run_of(0).info.status == "FAILED"


def test_a_bad_trial_is_pruned_and_its_run_is_killed(searching):
    curve = dict.fromkeys(range(1, REPORT_POINTS + 1), 1.0)
    for number in range(5):
        searching.study.add_trial(ended_trial(TrialState.COMPLETE, 1.0, values=curve, seed=number))
    # Learning rates too low to learn anything
    trial, run = searching.train(width=0.5, convolution_rate=0.02, head_rate=0.075, bias_rate=0.005)
    assert trial.state == TrialState.PRUNED
    assert (run.info.status, run.data.tags["state"]) == ("KILLED", "pruned")


def test_a_fresh_seed_is_never_pruned(searching):
    curve = dict.fromkeys(range(1, REPORT_POINTS + 1), 1.0)
    for number in range(5):
        searching.study.add_trial(ended_trial(TrialState.COMPLETE, 1.0, values=curve, seed=number))
    trial, _ = searching.train(seed=7, width=0.5, convolution_rate=0.02, head_rate=0.075, bias_rate=0.005)
    assert trial.state == TrialState.COMPLETE


def test_the_search_continues_if_another_process_gave_a_trial_up(searching, monkeypatch):
    def fit_and_lose(dataset, plan, *, on_report, **options):
        number = len(searching.study.trials) - 1
        if number == 0:
            searching.study.tell(number, state=TrialState.FAIL)
        return original(dataset, plan, on_report=on_report, **options)

    original = module.fit
    monkeypatch.setattr(module, "fit", fit_and_lose)
    search = Search(replace(searching.options, tune_budget=2.0), searching.study._storage)
    search.optimize(searching.objective)
    assert [trial.state for trial in search.trials()[:2]] == [TrialState.FAIL, TrialState.COMPLETE]
    assert search.trials()[0] not in search.ended_trials()
