from dataclasses import replace

import pytest

from image_classifier.errors import SettingError
from image_classifier.settings import Recipe, load_settings


def test_the_text_of_the_defaults_is_empty():
    assert (str(Recipe()), Recipe.parse("")) == ("", Recipe())


@pytest.mark.parametrize(
    "recipe",
    [Recipe(width=1.5), Recipe(batch_size=64, head_rate=0.4), replace(Recipe(), shift=0.0, label_smoothing=0.05)],
)
def test_a_recipe_is_parsed_from_its_text(recipe):
    assert Recipe.parse(str(recipe)) == recipe


@pytest.mark.parametrize(
    "text",
    ["2", "width", "width=", "width=wide", "width=nan", "width=9", "depth=2", "width=1 width=2", "batch_size=1.5"],
)
def test_a_text_that_is_not_a_recipe_is_an_error_with_the_ranges(text):
    with pytest.raises(SettingError) as error:
        load_settings({"recipe": text}, {})
    assert repr(text) in str(error.value)
    assert "head_rate (0.0001 to 10)" in str(error.value)


def test_a_training_uses_the_hyperparameters_of_its_kind():
    recipe = Recipe(width=2.0, batch_size=64, fine_tuning_rate=2e-3, max_stages=1)
    assert recipe.values(on_backbone=False).keys() & recipe.values(on_backbone=True).keys() == {
        "batch_size",
        "label_smoothing",
    }
    assert recipe.unused(on_backbone=False) == ["fine_tuning_rate", "max_stages"]
    assert recipe.unused(on_backbone=True) == ["width"]
    assert Recipe().unused(on_backbone=True) == Recipe().unused(on_backbone=False) == []
