"""Search space: the range in which each hyperparameter of a recipe is searched."""

import hashlib
from typing import Any

from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

from image_classifier.settings import DEFAULTS, Recipe
from image_classifier.training import BackboneChoice

_RATE_FACTOR = 4.0  # a learning rate is searched between its default divided and multiplied by this
_FORMAT = "3"  # of the studies; changes with what is stored in them

Space = dict[str, CategoricalDistribution | FloatDistribution]


def _rates(*names: str) -> Space:
    return {
        name: FloatDistribution(DEFAULTS[name] / _RATE_FACTOR, DEFAULTS[name] * _RATE_FACTOR, log=True)
        for name in names
    }


SPACE: Space = {
    "width": CategoricalDistribution((0.0, 0.5, 0.75, 1.0, 1.5, 2.0)),
    "batch_size": CategoricalDistribution((0, 32, 64, 128, 256, 512)),
    "label_smoothing": FloatDistribution(0.0, 0.3),
    "shift": FloatDistribution(0.0, 0.2),
    **_rates("convolution_rate", "bias_rate", "head_rate"),
}
"""Of a training from scratch. For width and batch size, 0 lets the training choose."""
BACKBONE_SPACE: Space = {
    "batch_size": CategoricalDistribution((0, 16, 64, 128)),
    "label_smoothing": FloatDistribution(0.0, 0.3),
    "max_stages": CategoricalDistribution((1, 2, 3)),
    **_rates("fine_tuning_rate", "fine_tuning_head_rate"),
}
"""Of the fine-tuning of a backbone."""


def suggest_recipe(trial: Trial, *, on_backbone: bool) -> Recipe:
    """The recipe of a trial, with three significant digits, so that its text is exact."""
    values: dict[str, Any] = {}
    for name, space in (BACKBONE_SPACE if on_backbone else SPACE).items():
        if isinstance(space, CategoricalDistribution):
            values[name] = trial.suggest_categorical(name, space.choices)
        else:
            values[name] = float(f"{trial.suggest_float(name, space.low, space.high, log=space.log):.3g}")
    return Recipe(**values)


def study_name(name: str, fingerprint: str, choice: BackboneChoice, framing: str) -> str:
    """Name of the study for a registered model, the fingerprint of its trainings, what they chose, and the space."""
    space = "".join(
        f"{part}{distribution_to_json(values)}"
        for part, values in (BACKBONE_SPACE if choice.backbone else SPACE).items()
    )
    chosen = f"{choice.backbone.digest} {choice.image_size} {framing}" if choice.backbone else ""
    return f"{name}-{hashlib.sha256((fingerprint + space + chosen + _FORMAT).encode()).hexdigest()[:16]}"
