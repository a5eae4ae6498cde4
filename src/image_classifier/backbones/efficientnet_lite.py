"""EfficientNet-Lite in PyTorch, with the batch norms folded into the convolutions.

Architecture: Tan & Le 2019 (arXiv:1905.11946) without squeeze-and-excite and with ReLU6, as in TensorFlow's
`efficientnet/lite`, whose stem, first and last stage are not scaled.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING = 1280
"""Channels of the last feature map."""

MEAN, SCALE = 127, 128
"""Pixels are normalized to (x - 127) / 128, as in the training of the weights."""
_STEM_CHANNELS = 32
_CHANNEL_DIVISOR = 8
_NORM_EPSILON = 1e-3


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class SameConvolution(nn.Conv2d):
    """A convolution padded like TensorFlow's "SAME": an odd pixel of padding is at the bottom and at the right."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)

    def padding_of(self, side: int) -> tuple[int, int]:
        """Pixels of padding before and after each row and column of an input of `side` pixels."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)
        return total // 2, total - total // 2

    def forward(self, images: Tensor) -> Tensor:
        if self.groups > 1 and images.dtype == torch.bfloat16:
            # PyTorch's depthwise convolutions on CPUs are slower in bfloat16. With them in float32, a step in bfloat16
            # sees 1.4 times as many images as in float32 (AVX-512 with bfloat16), otherwise fewer.
            with torch.autocast(images.device.type, enabled=False):
                return self._convolve(images.float())
        return self._convolve(images)

    def _convolve(self, images: Tensor) -> Tensor:
        left, right = self.padding_of(images.size(3))
        top, bottom = self.padding_of(images.size(2))
        if (left, top) == (right, bottom):
            return F.conv2d(images, self.weight, self.bias, self.stride, (top, left), groups=self.groups)
        padded = F.pad(images, (left, right, top, bottom))
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


class Block(nn.Module):
    """An inverted bottleneck: expansion, depthwise convolution, projection; with a shortcut if the shapes allow it."""

    def __init__(self, inputs: int, stage: _Stage, *, outputs: int, stride: int) -> None:
        super().__init__()
        middle = inputs * stage.expansion
        self.expand_conv = SameConvolution(inputs, middle, 1) if stage.expansion != 1 else None
        self.depthwise_conv = SameConvolution(middle, middle, stage.kernel, stride, groups=middle)
        self.project_conv = SameConvolution(middle, outputs, 1)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        features = images if self.expand_conv is None else F.relu6(self.expand_conv(images))
        features = F.relu6(self.depthwise_conv(features))
        projected: Tensor = self.project_conv(features)
        return projected + images if self.has_shortcut else projected


class EfficientNetLite(nn.Module):
    """The network without its classifier: from normalized images to the last feature map."""

    def __init__(self, *, width: float, depth: float) -> None:
        """`width` multiplies the channels of the stages, `depth` their number of blocks."""
        super().__init__()
        self.conv_stem = SameConvolution(3, _STEM_CHANNELS, 3, 2)
        self.blocks = nn.ModuleList()
        inputs = _STEM_CHANNELS
        for number, stage in enumerate(_STAGES):
            is_fixed = number in (0, len(_STAGES) - 1)
            outputs = _scaled_channels(stage.channels, width)
            for repeat in range(stage.repeats if is_fixed else math.ceil(stage.repeats * depth)):
                self.blocks.append(Block(inputs, stage, outputs=outputs, stride=1 if repeat else stage.stride))
                inputs = outputs
        self.conv_head = SameConvolution(inputs, EMBEDDING, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The last feature map, float32 [N, 1280, S/32, S/32], of normalized images, float32 [N, 3, S, S]."""
        return self.maps_from(0, self.stem(images))[-1]

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalized images of pixels from 0 to 255, [N, 3, S, S]."""
        return (pixels.float() - MEAN) / SCALE

    def stem(self, images: Tensor) -> Tensor:
        """What enters the first block, of normalized images, float32 [N, 3, S, S]."""
        return F.relu6(self.conv_stem(images))

    @property
    def stage_starts(self) -> tuple[int, ...]:
        """Numbers of the blocks that begin a stage, counted from 0: those that change the number of channels."""
        blocks = [cast(Block, block) for block in self.blocks]
        channels = [self.conv_stem.out_channels, *(block.project_conv.out_channels for block in blocks)]
        return tuple(number for number in range(len(self.blocks)) if channels[number] != channels[number + 1])

    def maps_from(self, start: int, features: Tensor) -> list[Tensor]:
        """The feature maps at the ends of the stages from `start` on, a block that begins one; then the last map.

        `features` is what enters the block `start`. The maps are those whose means are features, and earlier ones.
        """
        maps, later_starts = [], [number for number in self.stage_starts if number > start]
        for number in range(start, len(self.blocks)):
            if number in later_starts:
                maps.append(features)
            features = self.blocks[number](features)
        return [*maps, features, F.relu6(self.conv_head(features))]


def load_weights(network: EfficientNetLite, stored: Mapping[str, Tensor]) -> None:
    """Load a state dict in the names of the package efficientnet-lite-pytorch, folding its batch norms.

    Raises ValueError with the first tensor that is missing or has another shape.
    """
    with torch.no_grad():
        for name, module in network.named_modules():
            if not isinstance(module, SameConvolution):
                continue
            assert module.bias is not None
            convolution, norm = _stored_names(network, name)
            weight = _tensor(stored, f"{convolution}.weight", module.weight.shape)
            scale, shift, mean, variance = (
                _tensor(stored, f"{norm}.{part}", module.bias.shape)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            factor = scale / torch.sqrt(variance + _NORM_EPSILON)
            module.weight.copy_(weight * factor.view(-1, 1, 1, 1))
            module.bias.copy_(shift - mean * factor)


def _stored_names(network: EfficientNetLite, name: str) -> tuple[str, str]:
    """The names of a convolution and of the batch norm after it in efficientnet-lite-pytorch."""
    *parents, own = name.split(".")
    if not parents:
        return f"_{own}", {"conv_stem": "_bn0", "conv_head": "_bn1"}[own]
    block = network.get_submodule(".".join(parents))
    assert isinstance(block, Block)
    prefix = "_" + ".".join(parents)
    norms = {"expand_conv": "_bn0", "depthwise_conv": "_bn1", "project_conv": "_bn2"}
    return f"{prefix}._{own}", f"{prefix}.{norms[own]}"


def _tensor(stored: Mapping[str, Tensor], name: str, shape: Sequence[int]) -> Tensor:
    if name not in stored:
        raise ValueError(f"the tensor {name} is missing")
    tensor = stored[name]
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"the tensor {name} has the shape {list(tensor.shape)} instead of {list(shape)}")
    return tensor.float()


def _scaled_channels(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 8, but not down by more than 10 %."""
    scaled = channels * width
    rounded = max(_CHANNEL_DIVISOR, int(scaled + _CHANNEL_DIVISOR / 2) // _CHANNEL_DIVISOR * _CHANNEL_DIVISOR)
    return rounded + _CHANNEL_DIVISOR if rounded < 0.9 * scaled else rounded
