import numpy as np
import pytest

from image_classifier.search.finalists import SIGNIFICANCE, compare_with_default, recommended
from image_classifier.settings import Recipe

DEFAULT, OTHER = Recipe(), Recipe(width=2.0)
RECIPES = [DEFAULT, OTHER, Recipe(shift=0.0), Recipe(shift=0.1)]


def test_a_recipe_that_is_surely_better_is_recommended():
    finalists = compare_with_default([DEFAULT, OTHER], [[0.80, 0.90], [0.82, 0.91], [0.79, 0.90]], 1_000)
    assert recommended(finalists) is finalists[1]
    assert finalists[1].gain == pytest.approx(0.1)
    assert 0 < finalists[1].least_gain < 0.1
    assert finalists[1].accuracies == (0.90, 0.91, 0.90)


def test_a_seed_that_is_harder_for_all_is_no_noise():
    harder = compare_with_default([DEFAULT, OTHER], [[0.80, 0.81], [0.70, 0.71], [0.60, 0.612]], 1_000)
    assert recommended(harder).recipe == OTHER


def test_a_better_mean_within_the_noise_leaves_the_default():
    finalists = compare_with_default([DEFAULT, OTHER], [[0.80, 0.90], [0.82, 0.75], [0.79, 0.80]], 1_000)
    assert finalists[1].mean > finalists[0].mean
    assert recommended(finalists).recipe == DEFAULT


def test_one_image_more_on_each_of_two_seeds_is_no_proof():
    finalists = compare_with_default([DEFAULT, OTHER], [[0.99, 1.0], [0.98, 0.99]], 100)
    assert recommended(finalists).recipe == DEFAULT


def test_recipes_that_all_do_the_same_leave_the_default():
    assert recommended(compare_with_default([DEFAULT, OTHER], [[1.0, 1.0]] * 3, 144)).recipe == DEFAULT


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_recipes_that_are_no_better_are_recommended_no_more_often_than_said(seeds):
    random = np.random.default_rng(0)
    searches = 2_000
    wrong = 0
    for _ in range(searches):
        hardness = random.normal(0, 0.05, (seeds, 1))
        table = 0.8 + hardness + random.normal(0, 0.01, (seeds, len(RECIPES)))
        wrong += recommended(compare_with_default(RECIPES, table.tolist(), 5_000)).recipe != DEFAULT
    assert 0 < wrong / searches <= SIGNIFICANCE + 3 * (SIGNIFICANCE / searches) ** 0.5


def test_a_single_seed_is_too_little():
    with pytest.raises(ValueError, match="too few"):
        compare_with_default([DEFAULT, OTHER], [[0.8, 0.9]], 1_000)
