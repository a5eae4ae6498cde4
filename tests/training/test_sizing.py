import itertools

import pytest
import torch

from image_classifier.errors import TrainingError
from image_classifier.training.network import Network
from image_classifier.training.plan import TrainingInputs
from image_classifier.training.sizing import WIDTHS, choose_sizing
from tests.training.samples import clock, plan, stripes

pytestmark = pytest.mark.slow

SAMPLE = torch.randn(16, 3, 8, 8)


def network(width: float) -> Network:
    torch.manual_seed(0)
    return Network(channels=3, classes=4, image_size=8, width=width)


def sizing(of_clock, *, budget: float, recipe: str = ""):
    return choose_sizing(
        TrainingInputs.check(stripes(8), plan(budget=budget, recipe=recipe)), SAMPLE, network, of_clock
    )


def test_the_width_grows_with_the_number_of_images_that_fit_into_the_budget():
    # A step of 16 images takes 16 ms: 1,000 images a second.
    budgets = [10.0, 100.0, 500.0, 10_000.0]
    widths = [sizing(clock(0.016), budget=budget).width for budget in budgets]
    assert widths == [0.5, 0.75, 1.5, max(WIDTHS)]


def test_a_width_in_the_recipe_is_kept():
    assert sizing(clock(0.016), budget=1.0, recipe="width=2").width == 2.0


@pytest.mark.parametrize(("bfloat16_seconds", "chosen"), [(0.8, True), (0.95, False), (2.0, False)])
def test_bfloat16_is_chosen_if_it_takes_at_most_nine_tenths_of_the_time(bfloat16_seconds, chosen):
    # Three timed steps in float32, then three in bfloat16; each reads the clock before and after.
    durations = [1.0] * 3 + [bfloat16_seconds] * 3
    times = [time for number, each in enumerate(durations) for time in (10 * number, 10 * number + each)]
    of_clock = itertools.chain(times, itertools.count(100.0)).__next__
    assert sizing(of_clock, budget=100.0, recipe="width=0.5").bfloat16 is chosen


def test_a_budget_that_is_too_short_for_one_step_is_refused():
    with pytest.raises(TrainingError, match="the budget of 0.5 s is too short: one training step takes 2 s"):
        sizing(clock(1.0), budget=0.5)
