"""Hyperparameters of a training, which `tune` searches."""

import math
from dataclasses import dataclass, field, fields
from typing import Any


def _hyperparameter(
    default: float, low: float, high: float, *, from_scratch: bool = True, on_backbone: bool = False
) -> Any:
    used_by = {False: from_scratch, True: on_backbone}
    return field(default=default, metadata={"low": low, "high": high, "used_by": used_by})


def _fine_tuning(default: float, low: float, high: float) -> Any:
    return _hyperparameter(default, low, high, from_scratch=False, on_backbone=True)


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training: of a network from scratch, or of the fine-tuning of a pretrained backbone.

    The defaults were tuned on CIFAR-10's validation split, and on photos of clothes. As text: space-separated
    `name=value` pairs of the values that differ from the defaults.
    """

    width: float = _hyperparameter(0.0, 0.0, 8.0)
    """Width multiplier of every layer; 0: the widest network that the budget allows on this machine."""
    batch_size: int = _hyperparameter(0, 0, 4096, on_backbone=True)
    """Images in a batch; 0: chosen from the number of training images, and 32 in fine-tuning."""
    label_smoothing: float = _hyperparameter(0.1, 0.0, 0.5, on_backbone=True)
    convolution_rate: float = _hyperparameter(0.08, 1e-4, 2.0)
    """Initial learning rate of the convolutions (Muon)."""
    bias_rate: float = _hyperparameter(0.02, 1e-5, 1.0)
    """Initial learning rate of the biases (SGD)."""
    head_rate: float = _hyperparameter(0.3, 1e-4, 10.0)
    """Initial learning rate of the last layer (SGD)."""
    shift: float = _hyperparameter(1 / 16, 0.0, 0.5)
    """Maximum random shift of an image, as a fraction of its side."""
    fine_tuning_rate: float = _fine_tuning(1e-3, 1e-6, 0.1)
    """Initial learning rate of the backbone's layers (AdamW). On photos of clothes (one fold, four epochs of two stages
    of EfficientNet-Lite0) 91.8 %; with 1e-4 88.5 %, no better than the fitted classifier."""
    fine_tuning_head_rate: float = _fine_tuning(3e-3, 1e-6, 0.1)
    """Initial learning rate of the classifier on the backbone (AdamW)."""
    max_stages: int = _fine_tuning(3, 0, 3)
    """Maximum number of the backbone's last stages that are fine-tuned; fewer if the budget allows no more. 0: none."""

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

    def values(self, *, on_backbone: bool) -> dict[str, float]:
        """The hyperparameters that a training on a backbone uses, or else one from scratch, by name."""
        used = [item.name for item in fields(self) if item.metadata["used_by"][on_backbone]]
        return {name: getattr(self, name) for name in used}

    def unused(self, *, on_backbone: bool) -> list[str]:
        """Names of the hyperparameters that differ from the defaults, but have no effect on such a training."""
        used = self.values(on_backbone=on_backbone)
        return [name for name, default in DEFAULTS.items() if name not in used and getattr(self, name) != default]

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
