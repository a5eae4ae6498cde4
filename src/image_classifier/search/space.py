"""Search space: the range in which each hyperparameter of a recipe is searched."""

import hashlib
from typing import Any

from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

from image_classifier.settings import DEFAULTS, Recipe

_RATE_FACTOR = 4.0  # a learning rate is searched between its default divided and multiplied by this
_FORMAT = "3"  # of the studies; changes with what is stored in them

SPACE: dict[str, CategoricalDistribution | FloatDistribution] = {
    "width": CategoricalDistribution((0.0, 0.5, 0.75, 1.0, 1.5, 2.0)),
    "batch_size": CategoricalDistribution((0, 32, 64, 128, 256, 512)),
    "label_smoothing": FloatDistribution(0.0, 0.3),
    "shift": FloatDistribution(0.0, 0.2),
    **{
        name: FloatDistribution(DEFAULTS[name] / _RATE_FACTOR, DEFAULTS[name] * _RATE_FACTOR, log=True)
        for name in ("convolution_rate", "bias_rate", "head_rate")
    },
}
"""For width and batch size, 0 lets the training choose."""


def suggest_recipe(trial: Trial) -> Recipe:
    """The recipe of a trial, with three significant digits, so that its text is exact."""
    values: dict[str, Any] = {}
    for name, space in SPACE.items():
        if isinstance(space, CategoricalDistribution):
            values[name] = trial.suggest_categorical(name, space.choices)
        else:
            values[name] = float(f"{trial.suggest_float(name, space.low, space.high, log=space.log):.3g}")
    return Recipe(**values)


def study_name(name: str, fingerprint: str) -> str:
    """Name of the study for a registered model, the fingerprint of its trainings, and the search space."""
    space = "".join(f"{part}{distribution_to_json(values)}" for part, values in SPACE.items())
    return f"{name}-{hashlib.sha256((fingerprint + space + _FORMAT).encode()).hexdigest()[:16]}"
