"""The convolutional network, for square images from 8×8 to 224×224, grey or colour."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM_FEATURES = 24
BASE_WIDTHS = (32, 96, 192, 256)
"""Channels of each stage at width 1."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601); equal channels keep their value."""

_NORM_MOMENTUM = 0.3
_WHITENING_FLOOR = 5e-4
_LOGIT_SCALE = 0.02


class Network(nn.Module):
    """A frozen whitening convolution, then stages of two convolutions that each halve the side.

    After KellerJordan/cifar10-airbench (arXiv:2404.00498): the first layer decorrelates patches, convolutions
    start as the identity, batch norms have no scale. Narrower at the front, because on CPUs the
    first, largest maps limit by their arithmetic and memory; and the first layer has no bias, whose gradient would
    take a tenth of each step.
    """

    def __init__(self, *, channels: int, classes: int, image_size: int, width: float) -> None:
        """`channels` is 1 for grey and 3 for colour; `width` multiplies the channels of each stage."""
        super().__init__()
        kernel, stride = _stem_geometry(image_size)
        features = min(STEM_FEATURES, 2 * channels * kernel * kernel)
        padding = (kernel - stride) // 2
        self.stem = nn.Conv2d(channels, features, kernel, stride, padding, bias=False)
        self.stem.weight.requires_grad_(False)
        side = (image_size + 2 * padding - kernel) // stride + 1
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        for stage in range(max(1, int(math.log2(side)) - 1)):
            out = 8 * max(1, round(BASE_WIDTHS[min(stage, len(BASE_WIDTHS) - 1)] * width / 8))
            for _ in range(2):
                self.convolutions.append(nn.Conv2d(features, out, 3, padding=1, bias=False))
                norm = nn.BatchNorm2d(out, momentum=_NORM_MOMENTUM)
                norm.weight.requires_grad_(False)
                self.norms.append(norm)
                features = out
        self.head = nn.Linear(features, classes, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        for weight in self.convolutions.parameters():
            nn.init.dirac_(weight.data[: weight.size(1)])
        self.head.weight.data.div_(self.head.weight.data.std())

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the frozen first layer from normalised images, float32 [N, C, S, S].

        Its filters are the leading eigenvectors of the covariance of patches, scaled to unit variance, each
        with both signs, so that the activation after it loses nothing.
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
        """Logits [N, K] of normalised images, float32 [N, C, S, S]."""
        features = F.relu(self.stem(images))
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            features = convolution(features)
            if number % 2 == 0:
                features = F.max_pool2d(features, 2)
            features = F.relu(norm(features))
        logits: Tensor = self.head(features.amax((2, 3))) * _LOGIT_SCALE
        return logits


class Classifier(nn.Module):
    """What is exported: pixels in, probabilities out. Batch norms are folded into the convolutions.

    A batch norm without a scale divides by a positive number and shifts, which commutes with the max-pool
    before it, so folding it into the convolution before the pool changes nothing but the rounding.
    """

    mean: Tensor
    deviation: Tensor
    luminance: Tensor

    def __init__(
        self, network: Network, mean: Tensor, deviation: Tensor, *, mirror: bool, temperature: float = 1.0
    ) -> None:
        """`mean` and `deviation` are those of each channel of the training images, in 0..255, float32 [C].

        With `mirror` the logits are the mean of those of the image and of its mirror image. `temperature`
        divides the logits, so that the probabilities say how often the answer is right.
        """
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("deviation", deviation.view(1, -1, 1, 1))
        self.register_buffer("luminance", torch.tensor(LUMINANCE).view(1, 3, 1, 1))
        self.mirror, self.temperature = mirror, temperature
        self.stem = network.stem
        self.convolutions = nn.ModuleList(
            _folded(convolution, norm)  # type: ignore[arg-type]
            for convolution, norm in zip(network.convolutions, network.norms, strict=True)
        )
        self.head = network.head

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities float32 [N, K] of images uint8 [N, S, S, 3]."""
        return (self.logits(image) / self.temperature).softmax(1)

    def logits(self, image: Tensor) -> Tensor:
        """Logits float32 [N, K], before the temperature, of images uint8 [N, S, S, 3]."""
        pixels = image.permute(0, 3, 1, 2).to(torch.float32)
        if self.stem.in_channels == 1:
            pixels = (pixels * self.luminance).sum(1, keepdim=True)
        pixels = (pixels - self.mean) / self.deviation
        if self.mirror:
            return (self._one_side(pixels) + self._one_side(pixels.flip(3))) / 2
        return self._one_side(pixels)

    def _one_side(self, pixels: Tensor) -> Tensor:
        features = F.relu(self.stem(pixels))
        for number, convolution in enumerate(self.convolutions):
            features = convolution(features)
            if number % 2 == 0:
                features = F.max_pool2d(features, 2)
            features = F.relu(features)
        logits: Tensor = self.head(features.amax((2, 3))) * _LOGIT_SCALE
        return logits


def _stem_geometry(image_size: int) -> tuple[int, int]:
    """Kernel and stride of the first layer: what leaves a map of about 32 pixels up to size 80, of 56 at most."""
    if image_size <= 20:
        return 3, 1
    if image_size <= 40:
        return 2, 1
    if image_size <= 80:
        return 4, 2
    return 8, 4


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    folded = nn.Conv2d(convolution.in_channels, convolution.out_channels, 3, padding=1, bias=False)
    scale = torch.rsqrt(norm.running_var + norm.eps)
    folded.weight.data = convolution.weight.data * scale.view(-1, 1, 1, 1)
    folded.bias = nn.Parameter(norm.bias.data - norm.running_mean * scale)
    return folded.requires_grad_(False)


def channel_statistics(images: np.ndarray, *, grey: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of images uint8 [N, S, S, 3]; float32 [1] if grey, else [3]."""
    pixels = images[..., :1] if grey else images
    mean = pixels.mean(axis=(0, 1, 2), dtype=np.float64)
    deviation = pixels.std(axis=(0, 1, 2), dtype=np.float64).clip(min=1.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()
