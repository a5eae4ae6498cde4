"""A search on the digits: killed, continued by two commands at the same time, interrupted, and finished."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from optuna.trial import FrozenTrial, TrialState

from image_classifier.registry import artifact_paths
from image_classifier.search import SearchOptions, workers as workers_module
from image_classifier.search.study import FINALISTS
from image_classifier.settings import Recipe, Seconds, Settings, pick
from image_classifier.steps import tune as step
from image_classifier.steps.tune import tune

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BUDGET, WORKERS = 0.6, 2
LONG = 600.0  # tune_budget of commands that do not come to its end
GRACE = 4  # seconds
DEADLINE = 100.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """What the search left."""

    settings: Settings
    killed: list[str]
    """Lines of the command that was killed."""
    interrupted: list[str]
    """Lines of a command that worked at the same time."""
    lines: list[str]
    """Lines of the command that ended the search."""
    recipe: Recipe
    trials: Sequence[FrozenTrial]
    fresh: Sequence[FrozenTrial]
    parent: StoredRun
    children: Sequence[StoredRun]


class Command:
    """The command `tune` in another process."""

    def __init__(self, home: Path) -> None:
        arguments = ["--home", str(home), "--budget", f"{BUDGET}s", "--tune-budget", f"{LONG}s"]
        self._process = subprocess.Popen(
            [sys.executable, "-um", "image_classifier.cli", "tune", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A test run in the background of a shell ignores SIGINT, and so would this process.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        self.lines: list[str] = []

    def read_until(self, text: str) -> None:
        """Read until a line begins with `text`."""
        while not self.lines or not self.lines[-1].startswith(text):
            line = self._process.stdout.readline()
            assert line, self.lines
            self.lines.append(line.rstrip())

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self._process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def interrupt(self) -> None:
        # A terminal sends Ctrl-C to the workers, too.
        os.killpg(self._process.pid, signal.SIGINT)
        self.lines += self._process.communicate(timeout=DEADLINE)[0].splitlines()


def stored_trials(home: Path) -> tuple[str, list[FrozenTrial], list[FrozenTrial]]:
    """Name of the study in the storage, its trials on the seed of the search, and those on fresh seeds."""
    storage = f"sqlite:///{home / 'tuning.db'}"
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    fresh = [trial for trial in trials if trial.user_attrs.get("seed", 0) != 0]
    return name, [trial for trial in trials if trial not in fresh], fresh


def wait_for_running_trials(home: Path, count: int) -> None:
    """Wait until at least so many trials are in the middle of their training, or were when their process died."""
    # Optuna would create the tables if they do not exist yet.
    query = """SELECT COUNT(DISTINCT trial_id) FROM trials JOIN trial_intermediate_values USING (trial_id)
        WHERE state = 'RUNNING'
        AND trial_id NOT IN (SELECT trial_id FROM trial_user_attributes WHERE key = 'loss')"""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            with closing(sqlite3.connect(f"file:{home / 'tuning.db'}?mode=ro", uri=True)) as connection:
                if connection.execute(query).fetchone()[0] >= count:
                    return
        except sqlite3.OperationalError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pick_with_short_grace(settings: Settings, kind: type, **others: Any) -> Any:
    return pick(settings, kind, **others, **({"grace": GRACE} if kind is SearchOptions else {}))


def tune_to_the_end(home: Path, report: Callable[[str], None]) -> tuple[Settings, Recipe]:
    """Continue with a budget that leaves time for fresh seeds, however slow this machine is."""
    _, trials, _ = stored_trials(home)
    ended = [trial for trial in trials if trial.value is not None or "reason" in trial.user_attrs]
    seconds = [trial.duration.total_seconds() for trial in ended]
    budget = Seconds(sum(seconds) + 4 * max(seconds))
    settings = replace(Settings(), home=home, budget=Seconds(BUDGET), tune_budget=budget, tune_workers=WORKERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "pick", pick_with_short_grace)
        return settings, tune(settings, report)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Outcome:
    home = tmp_path_factory.mktemp("tuning")
    shutil.copy(empty_database, home / "mlflow.db")

    killed = Command(home)
    wait_for_running_trials(home, 1)
    interrupted = Command(home)
    killed.workers()[0].kill()
    killed.read_until("a worker process died")
    killed.read_until("trial ")
    interrupted.read_until("trial ")
    wait_for_running_trials(home, 2)  # one of them is of the dead worker
    (worker,) = killed.workers()
    killed.kill()
    _, alive = psutil.wait_procs([worker], timeout=DEADLINE)
    assert not alive, "a worker outlives its parent"
    interrupted.interrupt()

    lines: list[str] = []
    settings, recipe = tune_to_the_end(home, lines.append)
    name, trials, fresh = stored_trials(home)
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(settings.name)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.data.tags["study"] == name
    children = [run for run in runs if run is not parent]
    return Outcome(settings, killed.lines, interrupted.lines, lines, recipe, trials, fresh, parent, children)


def test_a_worker_that_is_killed_is_replaced(outcome):
    assert "a worker process died; another is started" in outcome.killed


def test_a_search_whose_command_was_killed_continues(outcome):
    (line,) = [line for line in outcome.lines if line.startswith("continuing after")]
    assert re.match(r"continuing after \d+ s: \d+ trials completed, ", line)


def test_an_interrupted_command_says_how_to_continue(outcome):
    assert outcome.interrupted[-1].startswith("stopped: ")
    assert outcome.interrupted[-1].endswith("; run the same command to continue")


def test_the_default_recipe_is_the_first_trial(outcome):
    assert (outcome.trials[0].number, outcome.trials[0].user_attrs["recipe"]) == (0, "")


def test_no_recipe_is_trained_twice_although_two_commands_work_at_once(outcome):
    tried = Counter(
        trial.user_attrs["recipe"]
        for trial in outcome.trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    assert set(tried.values()) == {1}
    fresh = Counter(
        (trial.user_attrs["recipe"], trial.user_attrs["seed"])
        for trial in outcome.fresh
        if trial.state == TrialState.COMPLETE
    )
    assert set(fresh.values()) <= {1}


def test_workers_train_at_the_same_time(outcome):
    ended = [trial for trial in outcome.trials if trial.datetime_complete]
    spans = sorted((trial.datetime_start, trial.datetime_complete) for trial in ended)
    assert any(second[0] < first[1] for first, second in pairwise(spans))


def test_every_run_has_ended(outcome):
    assert outcome.parent.info.status == "FINISHED"
    assert {run.info.status for run in outcome.children} <= {"FINISHED", "KILLED", "FAILED"}
    states = Counter(run.data.tags["state"] for run in outcome.children)
    # Of the worker and of the command that were killed
    assert states["abandoned"] >= 2
    assert not any(trial.state == TrialState.RUNNING for trial in (*outcome.trials, *outcome.fresh))


def test_every_trial_is_a_run_nested_under_the_run_of_the_search(outcome):
    assert {run.data.tags["mlflow.parentRunId"] for run in outcome.children} == {outcome.parent.info.run_id}
    by_trial = {run.data.tags["trial"]: run for run in outcome.children}
    for trial in (*outcome.trials, *outcome.fresh):
        if trial.state == TrialState.COMPLETE:
            run = by_trial[str(trial.number)]
            assert run.data.metrics["accuracy"] == trial.value
            assert run.data.params["recipe"] == trial.user_attrs["recipe"]


def test_the_best_recipes_and_the_default_are_trained_on_fresh_seeds(outcome):
    tried = {(trial.user_attrs["recipe"], trial.user_attrs["seed"]) for trial in outcome.fresh if trial.value}
    assert outcome.settings.seed not in {seed for _, seed in tried}
    assert "" in {recipe for recipe, _ in tried}
    assert 2 <= len({recipe for recipe, _ in tried}) <= FINALISTS + 1


def test_the_run_of_the_search_has_the_recommendation_and_the_figures(outcome):
    client = MlflowClient(f"sqlite:///{outcome.settings.home / 'mlflow.db'}")
    run = outcome.parent.info.run_id
    stored = {item.path: item.file_size for item in client.list_artifacts(run)}
    assert stored[artifact_paths.TUNING_HISTORY] > 10_000
    assert stored[artifact_paths.TUNING_IMPORTANCES] > 10_000
    assert outcome.parent.data.tags["recommended_recipe"] == (str(outcome.recipe) or "the default")
    assert "best_recipe" in outcome.parent.data.tags
    summary = Path(client.download_artifacts(run, artifact_paths.TUNING_SUMMARY)).read_text().splitlines()
    assert summary == outcome.lines[-len(summary) :]


def test_the_same_command_only_repeats_the_result(outcome, monkeypatch):
    monkeypatch.setattr(workers_module, "ProcessPoolExecutor", None)
    lines: list[str] = []
    # A recipe in the settings is not part of the search.
    settings = replace(outcome.settings, recipe=Recipe(width=2.0))
    assert tune(settings, lines.append) == outcome.recipe
    assert stored_trials(outcome.settings.home)[1:] == (outcome.trials, outcome.fresh)
    assert lines[-2:] == outcome.lines[-2:]
