"""The search space, with Optuna's storage in memory."""

from dataclasses import replace

import optuna
import pytest

from image_classifier.backbones import SHIPPED
from image_classifier.search.space import BACKBONE_SPACE, SPACE, study_name, suggest_recipe
from image_classifier.settings import DEFAULTS, RANGES, Recipe
from image_classifier.training import BackboneChoice

on_both = pytest.mark.parametrize("on_backbone", [False, True], ids=["from scratch", "on a backbone"])
LITE0 = SHIPPED["efficientnet-lite0"]


@on_both
def test_every_hyperparameter_is_searched_within_its_range_and_around_its_default(on_backbone):
    space = BACKBONE_SPACE if on_backbone else SPACE
    assert set(space) == set(Recipe().values(on_backbone=on_backbone))
    for name, values in space.items():
        assert values._contains(values.to_internal_repr(DEFAULTS[name])), name
        low, high = RANGES[name]
        ends = getattr(values, "choices", None) or (values.low, values.high)
        assert low <= min(ends) < max(ends) <= high, name


@on_both
def test_the_text_of_a_suggested_recipe_is_exact(on_backbone):
    study = optuna.create_study()
    for _ in range(12):
        recipe = suggest_recipe(study.ask(), on_backbone=on_backbone)
        assert Recipe.parse(str(recipe)) == recipe
        assert recipe.unused(on_backbone=on_backbone) == []


@on_both
def test_an_enqueued_recipe_is_suggested_unchanged(on_backbone):
    study = optuna.create_study()
    recipe = suggest_recipe(study.ask(), on_backbone=on_backbone)
    for each in (recipe, Recipe()):
        study.enqueue_trial(each.values(on_backbone=on_backbone))
    assert [suggest_recipe(study.ask(), on_backbone=on_backbone) for _ in range(2)] == [recipe, Recipe()]


def test_other_data_another_model_or_another_backbone_is_another_study():
    choices = [BackboneChoice(None, 64), BackboneChoice(LITE0, 224), BackboneChoice(LITE0, 192)]
    choices.append(BackboneChoice(replace(LITE0, digest="other weights"), 224))
    names = {
        study_name(name, fingerprint, choice, "crop")
        for name in ("a", "b")
        for fingerprint in ("1", "2")
        for choice in choices
    }
    assert len(names) == 16
    assert study_name("a", "1", choices[1], "pad") not in names


def test_the_study_of_a_network_from_scratch_keeps_its_name():
    assert study_name("digits", "fingerprint", BackboneChoice(None, 8), "crop") == "digits-cadb10c6c74de5e0"
