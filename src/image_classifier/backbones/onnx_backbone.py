"""A backbone of one's own in an ONNX file: any network from images to features, used frozen.

How its input is prepared is in a JSON file of the same name beside it, or in the metadata of the ONNX file:

    mean, scale           pixels from 0 to 255 become (pixel - mean) / scale; one number, or one for red, green and blue
    image_size            side in pixels; by default that of the input's shape
    layout                NCHW or NHWC; by default where the input's shape has the three channels
    name, license, trained_on    for the records
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from image_classifier.backbones.backbone import Backbone
from image_classifier.backbones.feature_graph import FEATURES, FeatureGraph, FeatureMap
from image_classifier.errors import PackageError, TrainingError
from image_classifier.files import sha256_of
from image_classifier.package import INPUT, Graph
from image_classifier.text import one_line

MAX_BYTES = 2**30
"""Size of an ONNX file; with everything in one file the format allows 2 GiB."""
_MAX_FEATURES = 16_384
_MIN_SIZE, _MAX_SIZE = 8, 384
_PREFIX = "backbone/"
_OLDEST_OPSET = 11
_OLDEST_IR_WITH_OPTIONAL_INPUTS = 4
_TOLERANCE = 1e-3
_EXAMPLE = '{"mean": [123.675, 116.28, 103.53], "scale": [58.395, 57.12, 57.375]}'


class _Preparation(NamedTuple):
    """How images are prepared for the network."""

    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    is_channels_first: bool


@dataclass(frozen=True, kw_only=True)
class OnnxBackbone(Backbone):
    """A feature extractor in an ONNX file."""

    path: Path
    facts: tuple[tuple[str, str], ...]
    """What the JSON file, or the metadata, says: each value as JSON."""

    @classmethod
    def read(cls, path: Path, shown: str) -> Self:
        """Read what the file is; `shown` names it in messages and records.

        Raises TrainingError if it is no network from images to features, or does not say how images are prepared.
        """
        model = _load(path, shown)
        facts = _facts(path, model, shown)
        size = _image_size(model, facts, shown)
        backbone = cls(
            name=str(facts.get("name") or path.stem),
            image_size=size,
            digest=_digest(path),
            weight_bytes=path.stat().st_size,
            origin=shown,
            license=str(facts.get("license", "")),
            trained_on=str(facts.get("trained_on", "")),
            path=path,
            facts=tuple(sorted((name, json.dumps(value)) for name, value in facts.items())),
        )
        _preparation(model, facts, shown)
        return backbone

    def feature_graph(self, image_size: int) -> FeatureGraph:
        model = _load(self.path, self.origin)
        facts = {name: json.loads(value) for name, value in self.facts}
        fixed = {side for side in _sides(model, facts) if side}
        if fixed - {image_size}:
            raise TrainingError(
                f"the backbone {self.origin} takes images of {fixed.pop()} pixels only, not of {image_size}; leave out "
                "--image-size, or export it with dynamic height and width"
            )
        prepared = _with_preparation(model, _preparation(model, facts, self.origin), image_size)
        dimensions, maps = _try(prepared, image_size, self.origin)
        return FeatureGraph(prepared, image_size, dimensions, maps=maps)


def _digest(path: Path) -> str:
    """SHA-256 of the file, and of the JSON file beside it if there is one."""
    facts = path.with_suffix(".json")
    if not facts.is_file():
        return sha256_of(path)
    return hashlib.sha256(f"{sha256_of(path)}{sha256_of(facts)}".encode()).hexdigest()


def _load(path: Path, shown: str) -> onnx.ModelProto:
    if (size := path.stat().st_size) > MAX_BYTES:
        raise TrainingError(
            f"the backbone {shown} has {size / 2**30:.1f} GiB; the maximum is {MAX_BYTES / 2**30:g} GiB, as every "
            "server loads it; export a smaller network"
        )
    try:
        model = onnx.load(path, load_external_data=False)
        has_nodes = len(model.graph.node) > 0
    except (OSError, DecodeError, ValueError) as error:
        raise TrainingError(f"the backbone {shown} is not a complete ONNX file: {one_line(error)}") from error
    if not has_nodes:
        raise TrainingError(f"the backbone {shown} is not an ONNX file: it has no graph")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise TrainingError(
            f"the backbone {shown} keeps its weights in other files; export it with external_data=False"
        )
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise TrainingError(
            f"the backbone {shown} has ONNX opset {opset}; export it with opset {_OLDEST_OPSET} or newer"
        )
    return model


def _facts(path: Path, model: onnx.ModelProto, shown: str) -> dict[str, Any]:
    file = path.with_suffix(".json")
    if not file.is_file():
        return {item.key: _parsed(item.value) for item in model.metadata_props}
    try:
        facts = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file.name} beside the backbone {shown} is not JSON: {one_line(error)}") from error
    if not isinstance(facts, dict):
        raise TrainingError(f"{file.name} beside the backbone {shown} must hold an object, such as {_EXAMPLE}")
    return facts


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _input(model: onnx.ModelProto, shown: str) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        raise TrainingError(f"the backbone {shown} has {len(inputs)} inputs ({names}), but must have one: the images")
    kind = inputs[0].type.tensor_type
    if kind.elem_type != TensorProto.FLOAT or len(kind.shape.dim) != 4:
        found = f"{TensorProto.DataType.Name(kind.elem_type)} with {len(kind.shape.dim)} dimensions"
        raise TrainingError(f"the input of the backbone {shown} is {found}, but must be FLOAT with 4: images")
    given: onnx.ValueInfoProto = inputs[0]
    return given


def _shape(model: onnx.ModelProto, shown: str) -> list[int]:
    """The input's dimensions; 0 for a dynamic one. Raises TrainingError if the number of images is fixed."""
    dimensions = [each.dim_value for each in _input(model, shown).type.tensor_type.shape.dim]
    if dimensions[0]:
        raise TrainingError(
            f"the backbone {shown} takes exactly {dimensions[0]} images at a time; export it with a dynamic "
            "first dimension"
        )
    return dimensions


def _is_channels_first(model: onnx.ModelProto, facts: dict[str, Any], shown: str) -> bool:
    shape = _shape(model, shown)
    layout = facts.get("layout")
    if layout is None:
        if (shape[1] == 3) == (shape[3] == 3):
            raise TrainingError(
                f"the input of the backbone {shown} has the shape {shape}, which does not say where the channels are; "
                'state "layout": "NCHW" or "NHWC"'
            )
        return shape[1] == 3
    if layout not in ("NCHW", "NHWC"):
        raise TrainingError(f"the layout of the backbone {shown} is {layout!r}, but must be NCHW or NHWC")
    channels = shape[1 if layout == "NCHW" else 3]
    if channels not in (0, 3):
        raise TrainingError(f"the backbone {shown} takes images of {channels} channels in {layout}, but must take 3")
    return bool(layout == "NCHW")


def _sides(model: onnx.ModelProto, facts: dict[str, Any], shown: str = "") -> tuple[int, int]:
    """Height and width that the input's shape states; 0 for a dynamic one."""
    shape = _shape(model, shown)
    return (shape[2], shape[3]) if _is_channels_first(model, facts, shown) else (shape[1], shape[2])


def _image_size(model: onnx.ModelProto, facts: dict[str, Any], shown: str) -> int:
    height, width = _sides(model, facts, shown)
    size = facts.get("image_size", height or width)
    if not isinstance(size, int) or isinstance(size, bool) or not _MIN_SIZE <= size <= _MAX_SIZE:
        raise TrainingError(
            f"the image_size of the backbone {shown} is {size!r}, but must be a whole number from "
            f"{_MIN_SIZE} to {_MAX_SIZE}" + ("" if size else "; state it, as the input's shape does not")
        )
    if {height, width} - {0, size}:
        raise TrainingError(f"the backbone {shown} takes images of {width}×{height} pixels, not of {size}×{size}")
    return size


def _preparation(model: onnx.ModelProto, facts: dict[str, Any], shown: str) -> _Preparation:
    def numbers(name: str) -> npt.NDArray[np.float32]:
        try:
            values = np.array(facts[name], np.float32).reshape(-1)
        except KeyError:
            raise TrainingError(
                f"the backbone {shown} does not say how images are prepared: {name} is missing; state it in "
                f"{Path(shown).stem}.json beside it, such as {_EXAMPLE}, or in the metadata of the ONNX file"
            ) from None
        except (TypeError, ValueError):
            values = np.array([np.nan], np.float32)
        if len(values) not in (1, 3) or not np.isfinite(values).all() or (name == "scale" and (values <= 0).any()):
            raise TrainingError(
                f"the {name} of the backbone {shown} is {facts[name]!r}, but must be a number or three, for pixels "
                f"from 0 to 255{' and above 0' if name == 'scale' else ''}"
            )
        return values

    return _Preparation(numbers("mean"), numbers("scale"), _is_channels_first(model, facts, shown))


def _with_preparation(model: onnx.ModelProto, preparation: _Preparation, image_size: int) -> onnx.ModelProto:
    """The network with images, uint8 [N, S, S, 3], as its input, and features [N, D] as its only output."""
    own = onnx.compose.add_prefix(model, _PREFIX)
    weights = {tensor.name for tensor in own.graph.initializer}
    (given,) = (each.name for each in own.graph.input if each.name not in weights)
    source = own.graph.output[0]
    before = [
        helper.make_node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "mean"], ["centered"]),
        helper.make_node("Div", ["centered", "scale"], ["normalized"]),
    ]
    if preparation.is_channels_first:
        before.append(helper.make_node("Transpose", ["normalized"], [given], perm=[0, 3, 1, 2]))
    else:
        before.append(helper.make_node("Identity", ["normalized"], [given]))
    after = _pooling(source.name, len(source.type.tensor_type.shape.dim), preparation.is_channels_first)
    nodes = [*before, *own.graph.node, *after]
    del own.graph.node[:]
    own.graph.node.extend(nodes)
    own.graph.initializer.extend(
        [numpy_helper.from_array(preparation.mean, "mean"), numpy_helper.from_array(preparation.scale, "scale")]
    )
    kept = [each for each in own.graph.input if each.name in weights]
    del own.graph.input[:]
    own.graph.input.extend(
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", image_size, image_size, 3]), *kept]
    )
    del own.graph.output[:]
    own.graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", "D"]))
    del own.metadata_props[:]
    return own


def _pooling(source: str, dimensions: int, is_channels_first: bool) -> list[onnx.NodeProto]:
    """Nodes from the network's output to features: the mean over positions of a map, or over tokens, [N, T, D]."""
    if dimensions == 3:
        return [
            helper.make_node("Transpose", [source], ["columns"], perm=[0, 2, 1]),
            helper.make_node("GlobalAveragePool", ["columns"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], [FEATURES], axis=1),
        ]
    if dimensions == 4:
        planes = [] if is_channels_first else [helper.make_node("Transpose", [source], ["planes"], perm=[0, 3, 1, 2])]
        return [
            *planes,
            helper.make_node("GlobalAveragePool", [source if is_channels_first else "planes"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], [FEATURES], axis=1),
        ]
    return [helper.make_node("Flatten", [source], [FEATURES], axis=1)]


def _pooled_map(model: onnx.ModelProto) -> str:
    """The tensor, [N, D, H, W], whose means are the features; "" if they are not the means of a map."""
    pooled = next((node.input[0] for node in model.graph.node if "pooled" in node.output), "")
    return "" if pooled == "columns" or model.ir_version < _OLDEST_IR_WITH_OPTIONAL_INPUTS else pooled


def _try(model: onnx.ModelProto, image_size: int, shown: str) -> tuple[int, tuple[FeatureMap, ...]]:
    """Number of features, and the map whose means they are, if it has more than one cell.

    Raises TrainingError unless the network returns finite features that depend on one image each.
    """
    images = np.random.default_rng(0).integers(0, 256, (3, image_size, image_size, 3), np.uint8)
    name = _pooled_map(model)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)] if name else []
    model.graph.output.extend(outputs)
    try:
        session = Graph(model.SerializeToString(), threads=1).session
        together = session.run([FEATURES], {INPUT: images})[0]
        alone, *maps = session.run([FEATURES, *(each.name for each in outputs)], {INPUT: images[:1]})
    except PackageError as error:
        raise TrainingError(f"the backbone {shown} cannot be loaded: {one_line(error)}") from error
    except Exception as error:  # ONNX Runtime's exceptions have no narrower public base class
        raise TrainingError(
            f"the backbone {shown} cannot be run on images of {image_size} pixels: {one_line(error)}"
        ) from error
    finally:
        for output in outputs:
            model.graph.output.remove(output)
    count = math.prod(together.shape[1:])
    if together.ndim != 2 or len(together) != len(images) or not 0 < count <= _MAX_FEATURES:
        raise TrainingError(
            f"the backbone {shown} gives values of the shape {list(together.shape)} for {len(images)} images, but must "
            f"give up to {_MAX_FEATURES:,} features for each"
        )
    if not np.isfinite(together).all():
        raise TrainingError(f"the backbone {shown} gives features that are not finite numbers")
    if not np.allclose(together[:1], alone, atol=_TOLERANCE * max(1.0, float(np.abs(alone).max()))):
        raise TrainingError(
            f"the features of the backbone {shown} depend on the other images of a batch; export it in evaluation mode"
        )
    shapes = [each.shape[1:] for each in maps]
    return int(count), tuple(FeatureMap(name, *shape) for shape in shapes if math.prod(shape[1:]) > 1)
