"""What training may be varied in beside its budget; `tune` searches for the best values."""

import math
from dataclasses import dataclass, field, fields
from typing import Any


def _part(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training. The defaults were found on CIFAR-10's validation split.

    As text it is `name=value` pairs with spaces between them, and only what differs from the default is named; the
    empty text is the default.
    """

    width: float = _part(0.0, 0.0, 8.0)
    """Factor of the channels of each layer; 0: the widest for which the budget is long enough on this machine."""
    batch_size: int = _part(0, 0, 4096)
    """Images of a step; 0: by the number of images."""
    label_smoothing: float = _part(0.1, 0.0, 0.5)
    convolution_rate: float = _part(0.08, 1e-4, 2.0)
    """Learning rate of the convolutions at the start, of Muon."""
    bias_rate: float = _part(0.02, 1e-5, 1.0)
    """Learning rate of the biases at the start, of SGD."""
    head_rate: float = _part(0.3, 1e-4, 10.0)
    """Learning rate of the last layer at the start, of SGD."""
    shift: float = _part(1 / 16, 0.0, 0.5)
    """Most that an image is shifted, as a share of its side."""

    @classmethod
    def parse(cls, text: object) -> "Recipe":
        """The recipe that a text tells of; raises ValueError for one that tells of none."""
        known = {part.name: part for part in fields(cls)}
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
        changed = {part.name: getattr(self, part.name) for part in fields(self)}
        return " ".join(f"{name}={value:.6g}" for name, value in changed.items() if value != DEFAULTS[name])


DEFAULTS: dict[str, float] = {part.name: part.default for part in fields(Recipe)}  # type: ignore[misc]
RANGES: dict[str, tuple[float, float]] = {
    part.name: (part.metadata["low"], part.metadata["high"]) for part in fields(Recipe)
}
"""Lowest and highest value of each part."""
EXPECTED = "name=value pairs with spaces between, of " + ", ".join(
    f"{name} ({low:g} to {high:g})" for name, (low, high) in RANGES.items()
)
