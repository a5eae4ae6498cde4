"""Hyperparameters of a training, which `tune` searches."""

import math
from dataclasses import dataclass, field, fields
from typing import Any


def _hyperparameter(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training. The defaults were tuned on CIFAR-10's validation split.

    As text: space-separated `name=value` pairs of the values that differ from the defaults.
    """

    width: float = _hyperparameter(0.0, 0.0, 8.0)
    """Width multiplier of every layer; 0: the widest network that the budget allows on this machine."""
    batch_size: int = _hyperparameter(0, 0, 4096)
    """Images in a batch; 0: chosen from the number of training images."""
    label_smoothing: float = _hyperparameter(0.1, 0.0, 0.5)
    convolution_rate: float = _hyperparameter(0.08, 1e-4, 2.0)
    """Initial learning rate of the convolutions (Muon)."""
    bias_rate: float = _hyperparameter(0.02, 1e-5, 1.0)
    """Initial learning rate of the biases (SGD)."""
    head_rate: float = _hyperparameter(0.3, 1e-4, 10.0)
    """Initial learning rate of the last layer (SGD)."""
    shift: float = _hyperparameter(1 / 16, 0.0, 0.5)
    """Maximum random shift of an image, as a fraction of its side."""

    @classmethod
    def parse(cls, text: object) -> "Recipe":
        """Parse the text form; raises ValueError for an unknown name, a repeated one, or a value out of range."""
        known = {item.name: item for item in fields(cls)}
        values: dict[str, float] = {}
        for pair in str(text).split():
            name, equals, given = pair.partition("=")
            if not equals or name not in known or name in values:
                raise ValueError(text)
            value = int(given) if known[name].type is int else float(given)
            if not (math.isfinite(value) and RANGES[name][0] <= value <= RANGES[name][1]):
                raise ValueError(text)
            values[name] = value
        return cls(**values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        changed = {item.name: getattr(self, item.name) for item in fields(self)}
        return " ".join(f"{name}={value:.6g}" for name, value in changed.items() if value != DEFAULTS[name])


DEFAULTS: dict[str, float] = {item.name: item.default for item in fields(Recipe)}  # type: ignore[misc]
RANGES: dict[str, tuple[float, float]] = {
    item.name: (item.metadata["low"], item.metadata["high"]) for item in fields(Recipe)
}
"""Lowest and highest value of each hyperparameter."""
EXPECTED = "space-separated name=value pairs of " + ", ".join(
    f"{name} ({low:g} to {high:g})" for name, (low, high) in RANGES.items()
)
