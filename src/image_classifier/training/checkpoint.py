"""The state of a training, and its checkpoint: one safetensors file, without pickle."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from image_classifier.files import write_atomically
from image_classifier.training.learning_curve import ReportPoint
from image_classifier.training.network import Network
from image_classifier.training.optimizer import Optimizer
from image_classifier.training.sizing import Sizing

CHECKPOINT_FILE = "state.safetensors"

Stored = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and the values that JSON can hold."""


@dataclass
class TrainingState:
    """Everything that changes from step to step."""

    network: Network
    optimizer: Optimizer
    sizing: Sizing
    step: int = 0
    elapsed: float = 0.0
    """Seconds of the budget that are spent."""
    flip: bool | None = None
    """Whether images are flipped horizontally; None: not yet, but `mirrored_images_keep_their_class` may allow it."""
    best_loss: float = math.inf
    """Lowest validation loss of a report point."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """State dict of the network with that loss."""
    history: list[ReportPoint] = field(default_factory=list)

    def restore(self, stored: Stored) -> None:
        """Continue from a checkpoint; network and optimizer must have its sizing."""
        tensors, values = stored
        self.network.load_state_dict(_with_prefix("network.", tensors))
        for name, tensor in _with_prefix("optimizer.", tensors).items():
            self.optimizer.state[name].copy_(tensor)
        self.best_weights = _with_prefix("best.", tensors)
        self.best_loss, self.step, self.elapsed = values["best_loss"], values["step"], values["elapsed"]
        self.history = [ReportPoint(**point) for point in values["history"]]
        self.flip = values["flip"]


def save_checkpoint(folder: Path, key: str, state: TrainingState) -> None:
    """Write the checkpoint of a training, `TrainingInputs.key`, atomically."""
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best_weights.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in state.optimizer.state.items()}
    values = {
        **state.sizing._asdict(),
        "step": state.step,
        "elapsed": state.elapsed,
        "best_loss": state.best_loss,
        "history": [asdict(point) for point in state.history],
        "flip": state.flip,
    }
    write_checkpoint(folder, key, (tensors, values))


def write_checkpoint(folder: Path, key: str, stored: Stored) -> None:
    """Write tensors and values as the checkpoint of a training, atomically."""
    tensors, values = stored
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content = save(contiguous, {"progress": json.dumps({"key": key, **values})})
    write_atomically(folder / CHECKPOINT_FILE, content)


def load_checkpoint(folder: Path, key: str) -> Stored | None:
    """The checkpoint in `folder`; None if there is none, if it is damaged, or if it has another key."""
    try:
        with safe_open(folder / CHECKPOINT_FILE, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            values = json.loads(file.metadata()["progress"])
            return (tensors, values) if values["key"] == key else None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
