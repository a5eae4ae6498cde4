from dataclasses import replace

import pytest

from image_classifier.errors import SettingError
from image_classifier.settings import Seconds, Settings
from image_classifier.steps.tune import tune
from tests.steps.chain import write_photos


@pytest.mark.parametrize("tune_budget", [10.0, 119.0])
def test_a_budget_too_short_for_a_search_is_refused_with_the_minimum(tune_budget):
    settings = replace(Settings(), budget=Seconds(20.0), tune_budget=Seconds(tune_budget))
    with pytest.raises(SettingError, match="together 120 s; use a larger --tune-budget or a smaller --budget"):
        tune(settings, print)


def test_there_is_nothing_to_tune_on_a_backbone(tmp_path):
    settings = replace(Settings(), home=tmp_path, data=str(write_photos(tmp_path / "photos", 3)))
    with pytest.raises(SettingError, match="use image-classifier train, or --backbone none"):
        tune(settings, print)
