"""The search space, with Optuna's storage in memory."""

from dataclasses import fields

import optuna

from image_classifier.search.space import SPACE, study_name, suggest_recipe
from image_classifier.settings import DEFAULTS, RANGES, Recipe


def test_every_hyperparameter_is_searched_within_its_range_and_around_its_default():
    assert set(SPACE) == {part.name for part in fields(Recipe)}
    for name, values in SPACE.items():
        assert values._contains(values.to_internal_repr(DEFAULTS[name])), name
        low, high = RANGES[name]
        ends = getattr(values, "choices", None) or (values.low, values.high)
        assert low <= min(ends) < max(ends) <= high, name


def test_the_text_of_a_suggested_recipe_is_exact():
    study = optuna.create_study()
    for _ in range(12):
        recipe = suggest_recipe(study.ask())
        assert Recipe.parse(str(recipe)) == recipe


def test_an_enqueued_recipe_is_suggested_unchanged():
    study = optuna.create_study()
    recipe = suggest_recipe(study.ask())
    study.enqueue_trial(vars(recipe))
    study.enqueue_trial(DEFAULTS)
    assert [suggest_recipe(study.ask()), suggest_recipe(study.ask())] == [recipe, Recipe()]


def test_other_data_or_another_model_is_another_study():
    names = {study_name(name, fingerprint) for name in ("a", "b") for fingerprint in ("1", "2")}
    assert len(names) == 4
