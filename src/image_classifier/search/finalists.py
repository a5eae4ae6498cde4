"""Whether any of a few recipes is better than the default by more than the noise of the seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np
from scipy.stats import t as student

from image_classifier.settings import Recipe

SIGNIFICANCE = 0.05
"""How often one of several recipes that are no better is said to be better."""
LEAST_SEEDS = 2


@dataclass(frozen=True)
class Finalist:
    """A recipe that was trained on several seeds."""

    label: str
    """A letter, for a picture and its legend; "default" for the default."""
    recipe: Recipe
    accuracies: tuple[float, ...]
    """On the validation split, by seed."""
    gain: float
    """Of the mean accuracy over the default's."""
    least_gain: float
    """What the gain surely exceeds."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))


def compare_with_default(
    recipes: Sequence[Recipe], accuracies: Sequence[Sequence[float]], images: int
) -> list[Finalist]:
    """The recipes, the first of which is the default, by their `accuracies`: a row for each seed.

    A seed sets the split and the weights at the start for all recipes alike, so that a part of the noise is common to
    a row and drops out: what is left is that of a randomised block design (Fisher 1935), pooled over the recipes,
    and no less than comes of counting `images` whole. Bounds are one-sided, by Student's t, and adjusted for the
    number of recipes (Bonferroni).
    """
    table = np.array(accuracies, dtype=np.float64)
    seeds, count = table.shape
    if seeds < LEAST_SEEDS or count < 2:
        raise ValueError(f"{seeds} seeds of {count} recipes are too few to compare")
    noise = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    freedom = (seeds - 1) * (count - 1)
    variance = max(float((noise**2).sum()) / freedom, 1 / (12 * images**2))
    margin = float(student.isf(SIGNIFICANCE / (count - 1), freedom)) * math.sqrt(2 * variance / seeds)
    gains = table.mean(axis=0) - table[:, 0].mean()
    labels = ["default", *ascii_uppercase[: count - 1]]
    return [
        Finalist(label, recipe, tuple(column), float(gain), float(gain - margin))
        for label, recipe, column, gain in zip(labels, recipes, table.T.tolist(), gains, strict=True)
    ]


def recommended(finalists: Sequence[Finalist]) -> Finalist:
    """The one of the highest mean, if it is surely better than the default; else the default."""
    best = max(finalists, key=lambda finalist: finalist.mean)
    return best if best.least_gain > 0 else finalists[0]
