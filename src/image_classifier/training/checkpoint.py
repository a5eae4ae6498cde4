"""The state of a training that may be cut off, in one file without pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from image_classifier.files import write_atomically

_FILE = "state.safetensors"


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Replace the checkpoint in `folder` as a whole; `progress` is what JSON can hold."""
    content = save(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, {"progress": json.dumps(progress)}
    )
    write_atomically(folder / _FILE, content)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and progress of the checkpoint in `folder`; None where there is none that can be read."""
    try:
        with safe_open(folder / _FILE, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return tensors, json.loads(file.metadata()["progress"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
