"""From the value of the setting `backbone` to a backbone."""

from functools import lru_cache
from pathlib import Path

from image_classifier.backbones.backbone import Backbone
from image_classifier.errors import TrainingError


def read_backbone(path: Path, shown: str) -> Backbone:
    """Read a backbone of one's own, an ONNX or safetensors file; `shown` names it in messages and records.

    Raises TrainingError if it is neither, or if it cannot be used.
    """
    if not path.is_file():
        raise TrainingError(f"there is no backbone {shown}: {'it is a folder' if path.is_dir() else 'no such file'}")
    if path.stat().st_size == 0:
        raise TrainingError(f"the backbone {shown} is empty")
    return _read(path, shown, tuple(_stamp(file) for file in (path, path.with_suffix(".json"))))


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What changes if the file does; None if there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1)
def _read(path: Path, shown: str, _stamps: tuple[tuple[int, int, int] | None, ...]) -> Backbone:
    """Read once what a training needs for its data, its fingerprint and its model: a large file takes seconds."""
    if path.suffix == ".onnx":
        from image_classifier.backbones.onnx_backbone import OnnxBackbone

        return OnnxBackbone.read(path, shown)
    if path.suffix == ".safetensors":
        from image_classifier.backbones.weights import WeightsBackbone

        return WeightsBackbone.read(path, shown)
    raise TrainingError(
        f"the backbone {shown} is neither an .onnx nor a .safetensors file; files that Python would unpickle "
        "(.pth, .pt, .bin, .ckpt) are not read: save the weights with safetensors.torch.save_file, or export the "
        "network as ONNX"
    )
