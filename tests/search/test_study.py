"""Studies in memory, with trials that do not train."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from image_classifier.errors import TrainingError
from image_classifier.search.space import suggest_recipe
from image_classifier.search.study import FINALISTS, Search
from image_classifier.settings import Recipe
from image_classifier.training import REPORT_POINTS, Plan
from tests.search.options import ended_trial, options_for

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(scope="module")
def storage() -> InMemoryStorage:
    return InMemoryStorage()


@pytest.fixture
def search(storage, request) -> Search:
    return Search(options_for(Path("home"), study=request.node.name), storage)


def add(search: Search, value: float, **attributes: Any) -> None:
    search.study.add_trial(ended_trial(TrialState.COMPLETE, value, **attributes))


def test_the_default_recipe_is_the_first_trial(search):
    search.enqueue_default()
    search.enqueue_default()
    recipes = [suggest_recipe(search.study.ask(), on_backbone=False) for _ in range(2)]
    assert recipes[0] == Recipe()
    assert recipes[1] != Recipe()


def test_a_trial_in_the_lowest_quarter_is_pruned_after_a_third(search):
    def prunes(trial: optuna.Trial, value: float) -> list[bool]:
        pruned = []
        for step in range(1, REPORT_POINTS + 1):
            trial.report(value, step)
            pruned.append(trial.should_prune())
        return pruned

    for value in (0.6, 0.7, 0.8, 0.9, 1.0):
        trial = search.study.ask()
        assert not any(prunes(trial, value))
        search.study.tell(trial, value)
    assert not any(prunes(search.study.ask(), 0.75))
    early = prunes(search.study.ask(), 0.65)
    assert early.index(True) == REPORT_POINTS // 3 - 1


def test_time_counts_once_for_simultaneous_trials(search):
    add(search, 0.5, start=0, seconds=10)
    add(search, 0.5, start=5, seconds=10)
    search.study.add_trial(ended_trial(TrialState.PRUNED, 0.5, start=12, seconds=1))
    search.study.add_trial(ended_trial(TrialState.FAIL, start=20, seconds=5, reason="the loss became nan"))
    add(search, 0.5, start=30, seconds=4, seed=1)
    assert search.seconds_spent() == 15 + 5 + 4


def test_time_of_a_trial_that_is_running_or_was_given_up_does_not_count(search):
    search.study.ask()
    search.study.add_trial(ended_trial(TrialState.FAIL, start=0, seconds=100))
    assert search.seconds_spent() == 0


def test_the_ranking_is_by_accuracy_and_then_by_loss_and_has_no_fresh_seed(search):
    add(search, 1.0, recipe="")
    add(search, 0.8, recipe="width=0.5")
    add(search, 0.9, recipe="width=1", loss=0.2)
    add(search, 0.9, recipe="width=2", loss=0.1)
    add(search, 1.0, recipe="width=0.5", seed=1)
    assert [trial.user_attrs["recipe"] for trial in search.ranking()] == ["", "width=2", "width=1", "width=0.5"]


@pytest.mark.parametrize(
    ("tune_budget", "recipes", "seeds"), [(60.0, FINALISTS, 10), (40.0, FINALISTS, 5), (30.0, 2, 3), (26.0, 1, 3)]
)
def test_finalists_and_fresh_seeds_are_as_many_as_there_is_time_for(storage, tune_budget, recipes, seeds):
    options = options_for(Path("home"), study=f"finalists {tune_budget}", tune_budget=tune_budget)
    search = Search(options, storage)
    for second in range(20):
        add(search, second / 20, recipe=f"width={second % 4}", start=second, seconds=1)
    search.enqueue_finalists()
    waiting = search.trials(TrialState.WAITING)
    pairs = [(trial.user_attrs["seed"], trial.user_attrs["recipe"]) for trial in waiting]
    assert len(pairs) == len(set(pairs)) == seeds * (recipes + 1)
    assert {recipe for _, recipe in pairs} == {"", *["width=3", "width=2", "width=1"][:recipes]}
    assert {seed for seed, _ in pairs} == set(range(1, seeds + 1))
    assert search.finalists == ["width=3", "width=2", "width=1"][:recipes]
    assert asdict(suggest_recipe(search.study.ask(), on_backbone=False)) == asdict(Recipe())


def test_another_machine_enqueues_no_finalist_again(search):
    for second in range(20):
        add(search, second / 20, recipe=f"width={second % 4}", start=second, seconds=1)
    search.enqueue_finalists()
    waiting = len(search.trials(TrialState.WAITING))
    search.enqueue_finalists()
    assert len(search.trials(TrialState.WAITING)) == waiting > 0


def test_a_trial_without_a_heartbeat_is_given_up_after_the_longest_training(storage):
    plan = Plan(0.1, 0, 0.1, Recipe(), threads=1)
    search = Search(options_for(Path("home"), study="no heartbeat", plan=plan, grace=0), storage)
    search.study.ask()
    search.settle()
    assert [trial.state for trial in search.trials()] == [TrialState.FAIL]
    assert search.ended_trials() == []


def test_without_a_completed_trial_no_finalist_is_enqueued(search):
    search.enqueue_finalists()
    assert search.trials() == []
    assert not search.has_work()


def test_a_larger_budget_chooses_finalists_again(search, storage):
    search.enqueue_finalists()
    longer = Search(options_for(Path("home"), study=search.options.study, tune_budget=120.0), storage)
    assert longer.finalists is None
    assert longer.has_work()


def test_an_unexpected_error_of_an_objective_ends_the_search(search):
    def fail(trial: optuna.Trial) -> float:
        raise ValueError("not a number")

    with pytest.raises(ValueError, match="not a number"):
        search.optimize(fail)
    assert search.ended_trials() == []


def test_processes_share_the_trials_and_end_in_time(storage):
    plan = Plan(0.05, 0, 0.1, Recipe(), threads=1)
    options = options_for(Path("home"), study="processes", plan=plan, tune_budget=1.5, tune_workers=2)
    order: list[tuple[str, int]] = []

    def objective(trial: optuna.Trial) -> float:
        recipe, seed = suggest_recipe(trial, on_backbone=False), trial.user_attrs.get("seed", 0)
        for name, value in {"recipe": str(recipe), "seed": seed, "loss": 1.0, "images": 100}.items():
            trial.set_user_attr(name, value)
        order.append((str(recipe), seed))
        time.sleep(0.05)
        if seed == 0 and len(order) == 2:
            trial.set_user_attr("reason", "the loss became nan")
            raise TrainingError("the loss became nan")
        return 0.5

    def work() -> None:
        with ThreadPoolExecutor() as threads:
            for future in [threads.submit(Search(options, storage).optimize, objective) for _ in range(2)]:
                future.result()

    search = Search(options, storage)
    search.enqueue_default()
    work()
    assert order[0] == ("", 0)
    assert {seed for _, seed in order} == {0}
    assert search.seconds_spent() < options.tune_budget
    searched = len(order)
    search.enqueue_finalists()
    work()
    fresh = order[searched:]
    assert len(fresh) == len(set(fresh)) >= 2
    assert set(fresh[:2]) >= {("", 1)}
    assert not search.has_work()
