"""Comparison of the finalists of a search with the default recipe on fresh seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import t as student

from image_classifier.settings import Recipe

SIGNIFICANCE = 0.05
"""Probability that a recipe is recommended if none is better than the default."""


@dataclass(frozen=True)
class Finalist:
    """A recipe with its mean validation accuracy over seeds, the gain over the default, and a lower bound of that."""

    recipe: Recipe
    mean: float
    gain: float
    least_gain: float


def compare_finalists(trials: Sequence[FrozenTrial], recipes: Sequence[str]) -> list[Finalist]:
    """Compare the default and recipes on the seeds on which all were trained; empty if these are too few.

    A recipe whose training failed is left out.
    """
    failed = {trial.user_attrs["recipe"] for trial in trials if "reason" in trial.user_attrs}
    recipes = ["", *(recipe for recipe in recipes if recipe not in failed)]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    results: dict[int, dict[str, float]] = {}
    for trial in complete:
        results.setdefault(trial.user_attrs["seed"], {})[trial.user_attrs["recipe"]] = trial.values[0]
    rows = [[row[recipe] for recipe in recipes] for row in results.values() if row.keys() >= {*recipes}]
    if len(rows) < 2 or len(recipes) < 2:
        return []
    return compare([Recipe.parse(recipe) for recipe in recipes], rows, max(t.user_attrs["images"] for t in complete))


def compare(recipes: Sequence[Recipe], accuracies: Sequence[Sequence[float]], images: int) -> list[Finalist]:
    """Compare recipes with the first of them, the default; `accuracies` has a row for each of at least two seeds.

    A randomized block design (Fisher 1935): a seed sets the split and the initial weights of all recipes alike, so
    differences between rows are not noise. The variance is pooled over the recipes, and at least that of rounding to
    whole `images`. The bounds are one-sided, by Student's t, with Bonferroni's correction.
    """
    table = np.array(accuracies, dtype=np.float64)
    seeds, count = table.shape
    means = table.mean(axis=0)
    noise = table - table.mean(axis=1, keepdims=True) - means + table.mean()
    freedom = (seeds - 1) * (count - 1)
    variance = max(float((noise**2).sum()) / freedom, 1 / (12 * images**2))
    margin = float(student.isf(SIGNIFICANCE / (count - 1), freedom)) * math.sqrt(2 * variance / seeds)
    gains = means - means[0]
    return [
        Finalist(*each) for each in zip(recipes, means.tolist(), gains.tolist(), (gains - margin).tolist(), strict=True)
    ]


def recommended(finalists: Sequence[Finalist]) -> Finalist:
    """The finalist with the highest mean if it is significantly better than the default; else the default."""
    best = max(finalists, key=lambda finalist: finalist.mean)
    return best if best.least_gain > 0 else finalists[0]
