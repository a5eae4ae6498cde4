"""Real trainings of the digits, recorded in a real sqlite store."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from optuna.trial import TrialState

from image_classifier.errors import TuningError
from image_classifier.progress import Progress
from image_classifier.search.conductor import Conductor, Records
from image_classifier.search.study import Study, Training, default_storage, opened_storage
from image_classifier.search.trainers import Trainer, started_trainers
from image_classifier.settings import Recipe, Seconds, Settings
from image_classifier.steps import chain_tmp as chain
from image_classifier.training.fit import REPORTS


class Search:
    """A study, one training process, and a run that theirs are nested under."""

    def __init__(self, settings: Settings, study: Study, trainer: Trainer) -> None:
        self.lines: list[str] = []
        self.study, self.trainer = study, trainer
        registry = chain.open_registry(settings, self.lines.append)
        dataset = chain.data(settings, self.lines.append)
        parent = registry.start_run(parameters={}, tags={}, dataset=dataset).id
        self.records = Records(registry, dataset, parent, self.lines.append)
        self.conductor = Conductor([trainer], self.records, Progress("tuning", 60, "s"), settings.budget)
        self._client = MlflowClient(f"sqlite:///{settings.home / 'mlflow.db'}")
        self._experiment = self._client.get_run(parent).info.experiment_id

    def train(self, recipe: Recipe, meanwhile: Callable[[], None] = lambda: None) -> StoredRun:
        """Train one recipe, as the conductor does it; gives its run."""
        asked: list[Training] = []

        def next_training() -> Training | None:
            if asked:
                return None
            asked.append(replace(self.study.ask(0), recipe=recipe))
            return asked[0]

        try:
            self.conductor.keep_busy(self.study, next_training)
        finally:
            self.conductor.abandon()
        return self.run_of(asked[0])

    def run_of(self, training: Training) -> StoredRun:
        condition = f"tags.study = '{self.study.name}' and tags.trial = '{training.number}'"
        (run,) = self._client.search_runs([self._experiment], condition)
        return run


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Settings:
    home = tmp_path_factory.mktemp("conductor")
    shutil.copy(empty_database, home / "mlflow.db")
    return replace(Settings(), home=home, budget=Seconds(2.0))


@pytest.fixture(scope="module")
def search(settings: Settings) -> Iterator[Search]:
    with (
        opened_storage(default_storage(settings.home), 10) as storage,
        started_trainers(settings, 1) as trainers,
    ):
        yield Search(settings, Study(storage, "a", prunes=True), trainers[0])


def test_a_training_is_a_complete_trial_and_a_finished_nested_run_with_its_curve(search):
    run = search.train(Recipe(width=0.5))
    trial = search.study.trials()[-1]
    assert trial.state == TrialState.COMPLETE
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == search.records.parent
    assert run.data.tags["state"] == "complete"
    assert run.data.params["recipe"] == "width=0.5"
    assert run.data.params["head_rate"] == "0.3"
    assert int(run.data.params["steps"]) > 0
    assert run.data.metrics["accuracy"] == trial.value
    assert len(trial.intermediate_values) >= 2
    assert {"validation_accuracy", "validation_loss", "seconds"} <= set(run.data.metrics)
    assert f"trial {trial.number}: {trial.value:.2%} with width=0.5" in search.lines


def test_a_training_that_fails_is_a_failed_run_that_says_why(search):
    run = search.train(Recipe(label_smoothing=2.0))
    assert search.study.trials()[-1].state == TrialState.FAIL
    assert (run.info.status, run.data.tags["state"]) == ("FAILED", "failed")
    assert "label_smoothing must be between" in run.data.tags["reason"]
    assert "label_smoothing must be between" in search.lines[-1]


def test_a_training_whose_process_is_killed_fails_and_the_next_one_runs(search):
    os.kill(search.trainer.process_id, signal.SIGKILL)
    run = search.train(Recipe(width=0.5))
    assert (run.info.status, run.data.tags["reason"]) == (
        "FAILED",
        "the process that trained it was ended by signal 9",
    )
    assert search.train(Recipe(width=0.5)).info.status == "FINISHED"


def test_a_search_whose_default_cannot_be_trained_ends_with_the_reason(search):
    os.kill(search.trainer.process_id, signal.SIGKILL)
    with pytest.raises(TuningError, match="the default recipe cannot be trained: .* signal 9"):
        search.train(Recipe())


def test_a_bad_trial_is_pruned_and_its_run_says_so(search):
    for _ in range(5):
        good = search.study.ask(0)
        for step in range(1, REPORTS + 1):
            search.study.report(good, 1.0, step)
        search.study.complete(good, 1.0, loss=0.0, images=144)
    # So slow a rate learns nothing.
    run = search.train(Recipe(width=0.5, convolution_rate=1e-4, head_rate=1e-4, bias_rate=1e-5))
    assert search.study.trials()[-1].state == TrialState.PRUNED, run.data.tags
    assert (run.info.status, run.data.tags["state"]) == ("KILLED", "pruned")
    assert "pruned after" in search.lines[-1]


def test_runs_whose_trial_is_not_under_way_are_ended(search):
    training = search.study.ask(0)
    search.records.start_run(search.study, training)
    search.records.end_abandoned([search.study])
    assert search.run_of(training).info.status == "RUNNING"
    search.study.abandon(training)
    search.records.end_abandoned([search.study])
    run = search.run_of(training)
    assert (run.info.status, run.data.tags["state"]) == ("KILLED", "abandoned")
