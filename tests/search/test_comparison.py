import numpy as np
import pytest
from optuna.trial import TrialState

from image_classifier.search.comparison import SIGNIFICANCE, compare, compare_finalists, recommended
from image_classifier.settings import Recipe
from tests.search.options import ended_trial

DEFAULT, OTHER = Recipe(), Recipe(width=2.0)
RECIPES = [DEFAULT, OTHER, Recipe(shift=0.0), Recipe(shift=0.1)]


def test_a_significantly_better_recipe_is_recommended():
    finalists = compare([DEFAULT, OTHER], [[0.80, 0.90], [0.82, 0.91], [0.79, 0.90]], 1_000)
    assert recommended(finalists) is finalists[1]
    assert finalists[1].gain == pytest.approx(0.1)
    assert 0 < finalists[1].least_gain < 0.1
    assert [finalist.recipe for finalist in finalists] == [DEFAULT, OTHER]
    assert [finalist.mean for finalist in finalists] == pytest.approx([0.80333, 0.90333], abs=1e-5)


def test_a_seed_that_is_harder_for_all_recipes_is_not_noise():
    harder = compare([DEFAULT, OTHER], [[0.80, 0.81], [0.70, 0.71], [0.60, 0.612]], 1_000)
    assert recommended(harder).recipe == OTHER


def test_the_default_stays_if_a_better_mean_is_within_the_noise():
    finalists = compare([DEFAULT, OTHER], [[0.80, 0.90], [0.82, 0.75], [0.79, 0.80]], 1_000)
    assert finalists[1].mean > finalists[0].mean
    assert recommended(finalists).recipe == DEFAULT


def test_one_more_correct_image_on_each_of_two_seeds_is_not_significant():
    finalists = compare([DEFAULT, OTHER], [[0.99, 1.0], [0.98, 0.99]], 100)
    assert recommended(finalists).recipe == DEFAULT


def test_the_default_stays_if_all_accuracies_are_equal():
    assert recommended(compare([DEFAULT, OTHER], [[1.0, 1.0]] * 3, 144)).recipe == DEFAULT


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_the_false_positive_rate_is_at_most_the_significance_level(seeds):
    random = np.random.default_rng(0)
    searches = 2_000
    wrong = 0
    for _ in range(searches):
        difficulty = random.normal(0, 0.05, (seeds, 1))
        table = 0.8 + difficulty + random.normal(0, 0.01, (seeds, len(RECIPES)))
        wrong += recommended(compare(RECIPES, table.tolist(), 5_000)).recipe != DEFAULT
    assert 0 < wrong / searches <= SIGNIFICANCE + 3 * (SIGNIFICANCE / searches) ** 0.5


def compared(*failed: str, seeds: int = 3) -> list[str]:
    """Recipes that are compared, with their means; the last seed lacks a trial."""
    trials = []
    for seed in range(seeds):
        for recipe in ("", "width=1", "width=2"):
            if recipe in failed:
                trials.append(ended_trial(TrialState.FAIL, recipe=recipe, seed=seed, reason="why"))
            elif (seed, recipe) != (seeds - 1, "width=1"):
                trials.append(ended_trial(TrialState.COMPLETE, 0.1 * seed, recipe=recipe, seed=seed))
    finalists = compare_finalists(trials, ["width=1", "width=2"])
    return [f"{finalist.recipe} {finalist.mean:.2f}" for finalist in finalists]


def test_finalists_are_compared_on_the_seeds_on_which_all_were_trained():
    assert compared() == [" 0.05", "width=1 0.05", "width=2 0.05"]


def test_a_finalist_that_failed_is_not_compared():
    assert compared("width=1") == [" 0.10", "width=2 0.10"]


def test_without_the_default_recipe_nothing_is_compared():
    assert compared("") == []


def test_a_single_seed_is_not_compared():
    assert compared(seeds=2) == []
