"""Normalized images of a data set and augmented batches of them."""

import hashlib
import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from image_classifier.training.plan import Indices, TrainingInputs

_STATISTICS_PIXELS = 2_000_000
_INFERENCE_PIXELS = 500_000
_LEAST_IMAGES = 64
_SHIFT_GROUPS = 32
_ROTATION_RADIANS = math.radians(10)
_STRETCH_FRACTION = 0.1
_AFFINE_BELOW_IMAGES = 10_000  # fewer images are repeated so often that they need stronger augmentation


class NormalizedImages:
    """Images and labels of the training part, as tensors on the training device."""

    def __init__(self, inputs: TrainingInputs) -> None:
        self._part, self._grayscale = inputs.dataset.train, inputs.dataset.grayscale
        self._pixels_per_image = inputs.dataset.image_size**2
        self._device = inputs.device
        count = max(_LEAST_IMAGES, _STATISTICS_PIXELS // self._pixels_per_image)
        self._sample = np.sort(np.random.default_rng(inputs.plan.seed).permutation(inputs.train)[:count])
        self.mean, self.deviation = channel_statistics(self._part.images[self._sample], grayscale=self._grayscale)

    def sample(self) -> Tensor:
        """Random training images, about two million pixels, as `pixels` returns them."""
        return self.pixels(self._sample)

    def pixels(self, indices: Indices) -> Tensor:
        """Normalized images, float32 [N, C, S, S]; C is 1 if the data set is grayscale, else 3."""
        images = self._part.images[indices]
        if self._grayscale:
            images = images[..., :1]
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device).permute(0, 3, 1, 2).float()
        mean, deviation = (values.view(1, -1, 1, 1).to(self._device) for values in (self.mean, self.deviation))
        return (pixels - mean) / deviation

    def labels(self, indices: Indices) -> Tensor:
        """Labels, int64 [N]."""
        return torch.from_numpy(self._part.labels[indices]).to(self._device)

    def inference_chunks(self, indices: Indices) -> list[Indices]:
        """Split indices into chunks small enough for the memory that inference takes."""
        size = max(_LEAST_IMAGES, _INFERENCE_PIXELS // self._pixels_per_image)
        return np.array_split(indices, math.ceil(len(indices) / size))


class Batches:
    """Augmented batches of the training images; each depends only on the seed, the step and the process's rank."""

    def __init__(self, inputs: TrainingInputs, images: NormalizedImages) -> None:
        self._inputs, self._images = inputs, images
        count = len(inputs.train)
        self._batches_per_epoch = count // inputs.batch_size
        self._first_flips = torch.rand(count, generator=_generator(inputs.plan.seed, "flips", 0)) < 0.5
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def batch(self, step: int, *, half_size: bool, flip: bool = False) -> tuple[Tensor, Tensor]:
        """This process's share of the batch of a step, counted from 0: images float32 [N, C, S, S], labels int64 [N].

        With `half_size` the images have half the side; with `flip` half of them are flipped horizontally.
        """
        plan, train = self._inputs.plan, self._inputs.train
        epoch, number = divmod(step, self._batches_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(len(train), generator=_generator(plan.seed, "order", epoch))
        start = number * self._inputs.batch_size
        chosen = plan.group.shard(self._order[start : start + self._inputs.batch_size])
        indices = train[chosen.numpy()]
        # Alternating flip (airbench, arXiv:2404.00498): each image is flipped in every second epoch, not at random.
        flips = self._first_flips[chosen] ^ bool(epoch % 2) if flip else None
        pixels = self._images.pixels(indices)
        if half_size:
            pixels = F.avg_pool2d(pixels, 2)
        images = augment(
            pixels,
            flips=flips,
            shift=plan.recipe.shift,
            affine=len(train) < _AFFINE_BELOW_IMAGES,
            generator=_generator(plan.seed, f"augmentation {plan.group.rank}", step),
        )
        return images, self._images.labels(indices)


def augment(images: Tensor, *, flips: Tensor | None, shift: float, affine: bool, generator: torch.Generator) -> Tensor:
    """Return augmented copies of normalized images, float32 [N, C, S, S], in channels-last order.

    `flips`, bool [N], selects the images that are flipped horizontally; None flips none. `shift` is the maximum shift
    as a fraction of the side. With `affine` the images are also rotated and stretched. `generator` is on the CPU.
    """
    if affine:
        images = _random_affine(images, generator)
    images = _random_shift(images, shift, generator)
    if flips is not None:
        images = torch.where(flips.view(-1, 1, 1, 1).to(images.device), images.flip(3), images)
    return images.contiguous(memory_format=torch.channels_last)


def _random_shift(images: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Shift by up to `fraction` of the side, at least one pixel unless it is 0; the border is padded by reflection.

    Images of a group share a shift: batches are random draws anyway, and slices are much cheaper than gathers.
    """
    side = images.size(3)
    limit = max(1, round(side * fraction)) if fraction else 0
    padded = F.pad(images, (limit,) * 4, mode="reflect")
    groups = padded.chunk(_SHIFT_GROUPS)
    offsets = torch.randint(0, 2 * limit + 1, (len(groups), 2), generator=generator).tolist()
    return torch.cat(
        [group[:, :, top : top + side, left : left + side] for group, (top, left) in zip(groups, offsets, strict=True)]
    )


def _random_affine(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to 10 degrees and stretch each axis by up to 10 %."""
    # Drawn on the CPU, so that a seed has the same result on every device.
    draws = 2 * torch.rand(len(images), 3, generator=generator).to(images.device) - 1
    angle = draws[:, 0] * _ROTATION_RADIANS
    stretch = 1 + _STRETCH_FRACTION * draws[:, 1:]
    zero = torch.zeros_like(angle)
    rows = [
        torch.stack([angle.cos() * stretch[:, 0], -angle.sin() * stretch[:, 1], zero], 1),
        torch.stack([angle.sin() * stretch[:, 0], angle.cos() * stretch[:, 1], zero], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def channel_statistics(images: npt.NDArray[np.uint8], *, grayscale: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of images uint8 [N, S, S, 3].

    float32 [1] if grayscale, else [3]; the deviation is at least 1, so that constant images can be normalized.
    """
    pixels = images[..., :1] if grayscale else images
    mean = pixels.mean(axis=(0, 1, 2), dtype=np.float64)
    deviation = pixels.std(axis=(0, 1, 2), dtype=np.float64).clip(min=1.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    text = f"{seed} {purpose} {number}".encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:8]) // 2)
