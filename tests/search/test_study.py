"""Trials in a real sqlite storage."""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields

import pytest
from optuna.trial import TrialState

from image_classifier.errors import TuningError
from image_classifier.search import study as module
from image_classifier.search.study import (
    SPACE,
    Study,
    best_recipes,
    best_trial,
    default_storage,
    opened_storage,
    seconds_spent,
    study_name,
)
from image_classifier.settings import DEFAULTS, RANGES, Recipe
from image_classifier.training.fit import REPORTS


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    with opened_storage(default_storage(tmp_path_factory.mktemp("study")), 10) as opened:
        yield opened


@pytest.fixture
def study(storage, request) -> Study:
    return Study(storage, request.node.name, prunes=True)


def finish(study: Study, value: float, loss: float = 1.0) -> Recipe:
    training = study.ask(0)
    study.complete(training, value, loss=loss, images=100)
    return training.recipe


def test_every_part_of_a_recipe_is_searched_within_its_range_and_around_its_default():
    assert set(SPACE) == {part.name for part in fields(Recipe)}
    for name, values in SPACE.items():
        assert values._contains(values.to_internal_repr(DEFAULTS[name])), name
        low, high = RANGES[name]
        ends = getattr(values, "choices", None) or (values.low, values.high)  # type: ignore[attr-defined]
        assert low <= min(ends) < max(ends) <= high, name


def test_the_default_is_the_first_trial_and_only_once(study):
    study.begin_with_default()
    study.begin_with_default()
    first, second = study.ask(0), study.ask(0)
    assert (first.number, first.recipe) == (0, Recipe())
    assert second.recipe != Recipe()


def test_what_is_tried_is_what_its_text_says(study):
    for _ in range(12):
        recipe = study.ask(0).recipe
        assert Recipe.parse(str(recipe)) == recipe


def test_a_search_that_goes_on_does_not_draw_the_same_again(storage, study):
    drawn = {str(study.ask(0).recipe) for _ in range(3)}
    again = Study(storage, study.name, prunes=True)
    drawn |= {str(again.ask(0).recipe) for _ in range(3)}
    assert len(drawn) == 6


def test_a_trial_below_the_lowest_quarter_ends_early_but_not_before_a_third(study):
    for value in (0.6, 0.7, 0.8, 0.9, 1.0):
        training = study.ask(0)
        assert not any(study.report(training, value, step) for step in range(1, REPORTS + 1))
        study.complete(training, value, loss=1.0, images=100)
    middling = study.ask(0)
    assert not any(study.report(middling, 0.75, step) for step in range(1, REPORTS + 1))
    bad = study.ask(0)
    early = [study.report(bad, 0.65, step) for step in range(1, REPORTS + 1)]
    assert not any(early[: REPORTS // 3 - 1])
    assert early[REPORTS // 3 - 1]
    assert not early[-1]
    study.prune(bad)
    assert study.trials()[-1].state == TrialState.PRUNED


def test_an_abandoned_trial_is_given_up_and_tried_again(study, monkeypatch):
    study.begin_with_default()
    abandoned, alive = study.ask(0), study.ask(0)
    study.give_up_abandoned()
    assert len(study.running()) == 2
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    time.sleep(0.3)
    study.show_life(alive)
    study.give_up_abandoned()
    assert [trial.number for trial in study.running()] == [alive.number]
    assert study.trials()[0].state == TrialState.FAIL
    assert study.failed() == set()
    again = study.ask(0)
    assert (again.recipe, again.number) == (abandoned.recipe, 2)


def test_what_is_abandoned_again_and_again_is_not_tried_for_ever(study):
    recipe = study.ask(0).recipe
    for number in range(3):
        (running,) = study.running()
        assert running.user_attrs["recipe"] == str(recipe), number
        study.abandon(module.Training(running, recipe, 0, 0.0))  # type: ignore[arg-type]
        next_one = study.ask(0).recipe
    assert next_one != recipe


def test_a_trial_that_others_gave_up_stays_so(study):
    training = study.ask(0)
    study.abandon(training)
    study.complete(training, 0.9, loss=1.0, images=100)
    assert study.trials()[0].state == TrialState.FAIL


def test_a_trial_that_failed_says_why_and_is_not_tried_again(study):
    training = study.ask(0)
    study.fail(training, "the loss became nan")
    assert study.trials()[0].user_attrs["reason"] == "the loss became nan"
    assert study.failed() == {str(training.recipe)}
    assert study.ask(0).recipe != training.recipe


def test_the_best_are_those_of_the_highest_accuracy_then_of_the_lowest_loss(study):
    study.begin_with_default()
    finish(study, 0.99)
    third, first, second = finish(study, 0.8), finish(study, 0.9, 0.1), finish(study, 0.9, 0.2)
    assert best_recipes(study.trials(), 3) == [first, second, third]
    best = best_trial(study.trials())
    assert best is not None
    assert best.number == 0


def test_trainings_on_fresh_seeds_are_found_by_recipe_and_seed(storage, request):
    fresh = Study(storage, request.node.name, prunes=False)
    recipe = Recipe(width=2.0)
    done, failed, running = (fresh.ask_for(recipe, seed) for seed in (1, 2, 3))
    fresh.complete(done, 0.75, loss=1.0, images=200)
    fresh.fail(failed, "why")
    assert fresh.results() == {("width=2", 1): 0.75}
    assert fresh.begun() == {("width=2", 1), ("width=2", 2), ("width=2", 3)}
    fresh.abandon(running)
    assert fresh.begun() == {("width=2", 1), ("width=2", 2)}
    assert fresh.images() == 200


def test_time_is_counted_once_for_trials_side_by_side(study):
    first = study.ask(0)
    second = study.ask(0)
    time.sleep(0.3)
    study.complete(first, 0.5, loss=1.0, images=100)
    study.prune(second)
    study.ask(0)  # not over, not counted
    assert 0.3 <= seconds_spent(study.trials()) < 0.6


def test_importances_need_trials_that_differ(study):
    for _ in range(2 * len(SPACE)):
        finish(study, 0.5)
    assert study.importances() == {}
    for number in range(2 * len(SPACE)):
        finish(study, 0.5 + number / 100)
    assert set(study.importances()) == set(SPACE)
    assert sum(study.importances().values()) == pytest.approx(1)


def test_other_data_or_another_model_is_another_study():
    names = {study_name(name, fingerprint) for name in ("a", "b") for fingerprint in ("1", "2")}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tuning", "is no address of a database"),
        ("sqlite:///{folder}/file/tuning.db", "cannot be opened"),
        ("dbase://host/tuning", "there is no such kind of database"),
        ("mysql://user:secret@host/tuning", "needs a driver that is not installed: No module named"),
        ("postgresql://user:secret@127.0.0.1:9/tuning", "user:***@127.0.0.1:9/tuning cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(tmp_path, address, expected):
    (tmp_path / "file").touch()
    with pytest.raises(TuningError) as raised, opened_storage(address.format(folder=tmp_path), 2):
        pass
    assert expected in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_storage_of_another_version_of_optuna_is_refused(tmp_path):
    address = default_storage(tmp_path)
    with opened_storage(address, 2):
        pass
    with closing(sqlite3.connect(tmp_path / "tuning.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    with pytest.raises(TuningError, match="is of another version of Optuna"), opened_storage(address, 2):
        pass


def test_the_database_of_another_program_is_refused(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "tuning.db")
    with (
        pytest.raises(TuningError, match="or of another program"),
        opened_storage(default_storage(tmp_path), 2),
    ):
        pass


def test_a_storage_that_fails_later_is_an_error_in_words(tmp_path):
    address = default_storage(tmp_path)
    with (
        pytest.raises(TuningError, match="failed: .* goes on where it was"),
        opened_storage(address, 1) as opened,
    ):
        study = Study(opened, "a", prunes=True)
        with closing(sqlite3.connect(tmp_path / "tuning.db")) as connection, connection:
            connection.execute("DROP TABLE trials")
        study.ask(0)
