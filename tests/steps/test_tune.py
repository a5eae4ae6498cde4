from dataclasses import replace

import pytest

from image_classifier.errors import SettingError
from image_classifier.settings import Seconds, Settings
from image_classifier.steps.tune import tune


@pytest.mark.parametrize("tune_budget", [10.0, 119.0])
def test_a_budget_too_short_for_a_search_is_refused_with_the_minimum(tune_budget):
    settings = replace(Settings(), budget=Seconds(20.0), tune_budget=Seconds(tune_budget))
    with pytest.raises(SettingError, match="together 120 s; use a larger --tune-budget or a smaller --budget"):
        tune(settings, print)
