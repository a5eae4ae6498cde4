"""The convolutional network, for square grayscale or color images from 8×8 to 224×224."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_STEM_FEATURES = 24
_STAGE_CHANNELS = (32, 96, 192, 256)
"""Channels of each stage at width 1; further stages have as many as the last."""
_LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grayscale (ITU-R BT.601); they keep the value of equal channels."""
_NORM_MOMENTUM = 0.3
_WHITENING_FLOOR = 5e-4
_LOGIT_SCALE = 0.02


class Network(nn.Module):
    """A frozen whitening convolution, then stages of two convolutions that each halve the side.

    After KellerJordan/cifar10-airbench (arXiv:2404.00498): the first layer decorrelates patches, convolutions start as
    the identity, batch norms have no scale. Unlike there, the first stages are narrower, because on CPUs the first,
    largest feature maps take most of the time; and the first layer has no bias, whose gradient would take a tenth of
    each step.
    """

    def __init__(self, *, channels: int, classes: int, image_size: int, width: float) -> None:
        """`channels` is 1 for grayscale and 3 for color; `width` multiplies the channels of each stage."""
        super().__init__()
        kernel, stride = _stem_geometry(image_size)
        features = min(_STEM_FEATURES, 2 * channels * kernel * kernel)
        padding = (kernel - stride) // 2
        self.stem = nn.Conv2d(channels, features, kernel, stride, padding, bias=False)
        self.stem.weight.requires_grad_(False)
        side = (image_size + 2 * padding - kernel) // stride + 1
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        for stage in range(max(1, int(math.log2(side)) - 1)):
            out = 8 * max(1, round(_STAGE_CHANNELS[min(stage, len(_STAGE_CHANNELS) - 1)] * width / 8))
            for _ in range(2):
                self.convolutions.append(nn.Conv2d(features, out, 3, padding=1, bias=False))
                norm = nn.BatchNorm2d(out, momentum=_NORM_MOMENTUM)
                norm.weight.requires_grad_(False)
                self.norms.append(norm)
                features = out
        self.head = nn.Linear(features, classes, bias=False)
        for weight in self.convolutions.parameters():
            nn.init.dirac_(weight.data[: weight.size(1)])
        self.head.weight.data.div_(self.head.weight.data.std())

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the frozen first layer from normalized images, float32 [N, C, S, S].

        Its filters are the leading eigenvectors of the covariance of patches, scaled to unit variance, each with both
        signs, so that the ReLU after it loses nothing.
        """
        kernel, stride = self.stem.kernel_size[0], self.stem.stride[0]
        patches = images.unfold(2, kernel, stride).unfold(3, kernel, stride)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.size(1) * kernel * kernel)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        count = self.stem.out_channels // 2
        filters = (vectors / torch.sqrt(values.clamp(min=0) + _WHITENING_FLOOR)).flip(1).T[:count]
        filters = filters.reshape(count, images.size(1), kernel, kernel)
        self.stem.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K] of normalized images, float32 [N, C, S, S]."""
        features = F.relu(self.stem(images))
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            features = convolution(features)
            if number % 2 == 0:
                features = F.max_pool2d(features, 2)
            features = F.relu(norm(features))
        logits: Tensor = self.head(features.amax((2, 3))) * _LOGIT_SCALE
        return logits


class Classifier(nn.Module):
    """The exported model, from pixels to probabilities: normalization, network, test-time flip, temperature."""

    mean: Tensor
    deviation: Tensor
    luminance: Tensor

    def __init__(
        self, network: Network, mean: Tensor, deviation: Tensor, *, test_time_flip: bool, temperature: float = 1.0
    ) -> None:
        """`mean` and `deviation`, float32 [C], normalize pixels from 0 to 255. `network` is in evaluation mode.

        With `test_time_flip` the logits are the mean over the image and its horizontal flip. `temperature` divides
        the logits, to calibrate the probabilities.
        """
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("deviation", deviation.view(1, -1, 1, 1))
        self.register_buffer("luminance", torch.tensor(_LUMINANCE).view(1, 3, 1, 1))
        self.test_time_flip, self.temperature = test_time_flip, temperature
        self.network = _fold_batch_norms(network)

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities float32 [N, K] of images uint8 [N, S, S, 3]."""
        return (self.logits(image) / self.temperature).softmax(1)

    def logits(self, image: Tensor) -> Tensor:
        """Logits float32 [N, K], before the temperature, of images uint8 [N, S, S, 3]."""
        pixels = image.permute(0, 3, 1, 2).to(torch.float32)
        if self.network.stem.in_channels == 1:
            pixels = (pixels * self.luminance).sum(1, keepdim=True)
        pixels = (pixels - self.mean) / self.deviation
        logits: Tensor = self.network(pixels)
        if self.test_time_flip:
            logits = (logits + self.network(pixels.flip(3))) / 2
        return logits


def _stem_geometry(image_size: int) -> tuple[int, int]:
    """Kernel size and stride of the first layer: its output has about 32 pixels a side up to size 80, then up to 56."""
    if image_size <= 20:
        return 3, 1
    if image_size <= 40:
        return 2, 1
    if image_size <= 80:
        return 4, 2
    return 8, 4


def _fold_batch_norms(network: Network) -> Network:
    """A frozen copy of the network whose batch norms are part of the convolutions.

    A batch norm without a scale divides by a positive number and adds a constant. Both commute with the max-pool before
    it, so folding it into the convolution before the pool changes only the rounding.
    """
    folded = copy.deepcopy(network)
    for number, (convolution, norm) in enumerate(zip(network.convolutions, network.norms, strict=True)):
        folded.convolutions[number] = fuse_conv_bn_eval(convolution, norm)  # type: ignore[type-var, arg-type]
        folded.norms[number] = nn.Identity()
    return folded.requires_grad_(False)
