"""A search on the digits that is killed and interrupted on its way, with a sqlite MLflow; and what it leaves."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from optuna.trial import FrozenTrial, TrialState

from image_classifier.errors import SettingError
from image_classifier.registry import artifact_paths as artifacts
from image_classifier.search import study, tuning
from image_classifier.search.study import Study, default_storage, opened_storage
from image_classifier.settings import Recipe, Seconds, Settings
from image_classifier.steps import chain_tmp as chain

BUDGET, TUNE_BUDGET, WORKERS = 1.0, 12.0, 2


@dataclass(frozen=True)
class Searched:
    """What a search left."""

    settings: Settings
    lines: list[str]
    stopped: str
    """What the interrupted process said."""
    recipe: Recipe
    trials: Sequence[FrozenTrial]
    fresh: Sequence[FrozenTrial]
    parent: StoredRun
    children: Sequence[StoredRun]


def studies(settings: Settings) -> tuple[str, list[FrozenTrial], list[FrozenTrial]]:
    """The name of the one search in the storage, its trials, and those on fresh seeds."""
    with opened_storage(default_storage(settings.home), 10) as storage:
        names = sorted((item.study_name for item in storage.get_all_studies()), key=len)
        found = [Study(storage, name, prunes=True).trials() for name in names]
    return names[0], found[0], found[1]


def reports(home: Path) -> int:
    """How often trials have reported; read past Optuna, which would make the tables that are not there yet."""
    try:
        with closing(sqlite3.connect(f"file:{home / 'tuning.db'}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM trial_intermediate_values").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def begin(settings: Settings) -> subprocess.Popen[str]:
    """Start the command, and wait until a trial has reported."""
    command = [sys.executable, "-m", "image_classifier.cli", "tune", "--home", str(settings.home)]
    command += ["--budget", f"{BUDGET}s", "--tune-budget", f"{TUNE_BUDGET}s", "--tune-workers", str(WORKERS)]
    before = reports(settings.home)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in the background of a shell, they and their children ignore it.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while reports(settings.home) == before:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Searched]:
    home = tmp_path_factory.mktemp("tuning")
    shutil.copy(empty_database, home / "mlflow.db")
    settings = replace(
        Settings(),
        home=home,
        budget=Seconds(BUDGET),
        tune_budget=Seconds(TUNE_BUDGET),
        tune_workers=WORKERS,
    )
    os.kill((killed := begin(settings)).pid, signal.SIGKILL)
    killed.communicate()
    # As a terminal does it, to the processes that train, too.
    os.killpg((interrupted := begin(settings)).pid, signal.SIGINT)
    stopped, _ = interrupted.communicate(timeout=60)
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        # Twice the time between two signs of life.
        patch.setattr(study, "GRACE_SECONDS", 10.0)
        recipe = chain.tune(settings, lines.append)
    name, trials, fresh = studies(settings)
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(settings.name)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert parent.data.tags["study"] == name
    return Searched(settings, lines, stopped, recipe, trials, fresh, parent, children)


def test_the_default_is_the_first_trial_and_is_tried_again_after_a_kill(searched):
    default = [trial for trial in searched.trials if trial.user_attrs.get("recipe") == ""]
    assert default[0].number == 0
    assert [trial.state for trial in default].count(TrialState.COMPLETE) == 1


def test_no_trial_runs_twice_but_what_was_abandoned(searched):
    tried = Counter(
        trial.user_attrs["recipe"]
        for trial in searched.trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    assert set(tried.values()) == {1}
    assert len(tried) >= 4
    again = Counter((trial.user_attrs["recipe"], trial.user_attrs["seed"]) for trial in searched.fresh)
    assert set(again.values()) <= {1}


def test_two_workers_train_at_the_same_time(searched):
    spans = sorted(
        (trial.user_attrs["began"], trial.user_attrs["began"] + trial.user_attrs["seconds"])
        for trial in searched.trials
        if "seconds" in trial.user_attrs
    )
    assert any(second[0] < first[1] for first, second in pairwise(spans))


def test_a_killed_and_an_interrupted_search_go_on_in_the_same_run(searched):
    assert "The same command goes on from here" in searched.stopped
    assert any(trial.state == TrialState.FAIL for trial in searched.trials)
    assert all(trial.state.is_finished() for trial in searched.trials if trial.state != TrialState.WAITING)
    assert searched.parent.info.status == "FINISHED"
    statuses = Counter(run.data.tags["state"] for run in searched.children)
    assert statuses["abandoned"] >= 2
    assert {run.info.status for run in searched.children} <= {"FINISHED", "KILLED", "FAILED"}


def test_every_trial_is_a_run_nested_under_that_of_the_search(searched):
    assert {run.data.tags["mlflow.parentRunId"] for run in searched.children} == {searched.parent.info.run_id}
    by_trial = {(run.data.tags["study"], run.data.tags["trial"]): run for run in searched.children}
    name = searched.parent.data.tags["study"]
    for trial in searched.trials:
        if trial.state == TrialState.COMPLETE:
            run = by_trial[name, str(trial.number)]
            assert run.data.metrics["accuracy"] == trial.value
            assert run.data.params["recipe"] == trial.user_attrs["recipe"]


def test_the_best_and_the_default_are_tried_on_fresh_seeds(searched):
    tried = {(trial.user_attrs["recipe"], trial.user_attrs["seed"]) for trial in searched.fresh}
    assert searched.settings.seed not in {seed for _, seed in tried}
    assert "" in {recipe for recipe, _ in tried}
    assert 2 <= len({recipe for recipe, _ in tried}) <= tuning.FINALISTS + 1


def test_the_run_of_the_search_has_the_recommendation_and_the_picture(searched):
    client = MlflowClient(f"sqlite:///{searched.settings.home / 'mlflow.db'}")
    stored = {item.path: item.file_size for item in client.list_artifacts(searched.parent.info.run_id)}
    assert stored[artifacts.TUNING_COURSE] > 10_000
    assert stored[artifacts.TUNING_SUMMARY] > 100
    assert searched.parent.data.tags["recommended_recipe"] == (str(searched.recipe) or "the default")
    assert "best_recipe" in searched.parent.data.tags


def test_the_same_command_after_the_end_only_says_what_was_found(searched):
    lines: list[str] = []
    started = time.monotonic()
    # A recipe that the environment gives is no other search.
    settings = replace(searched.settings, recipe=Recipe(width=2.0))
    assert chain.tune(settings, lines.append) == searched.recipe
    assert time.monotonic() - started < 5
    assert studies(searched.settings)[1:] == (searched.trials, searched.fresh)
    assert lines[-1] == searched.lines[-1]


def test_the_recipe_of_a_trial_can_be_given_to_train(searched):
    best = next(trial for trial in searched.trials if trial.value and trial.user_attrs["recipe"])
    recipe = Recipe.parse(best.user_attrs["recipe"])
    package = chain.train(replace(searched.settings, recipe=recipe), lambda _: None)
    assert package.provenance["parameters"]["recipe"] == best.user_attrs["recipe"]
    assert package.provenance["parameters"]["head_rate"] == recipe.head_rate


@pytest.mark.parametrize(("budget", "tune_budget"), [(20.0, 10.0), (20.0, 119.0)])
def test_a_time_too_short_for_a_search_is_refused_with_the_least(budget, tune_budget):
    settings = replace(Settings(), budget=Seconds(budget), tune_budget=Seconds(tune_budget))
    with pytest.raises(
        SettingError, match=r"needs the time of 6 at least, 120 s; give a larger --tune-budget"
    ):
        tuning.check_time(settings)
