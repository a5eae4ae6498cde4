"""Changes of training images that keep their class: shift, mirror and, for small data, slight distortion."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_SHIFT_GROUPS = 32
_MOST_ROTATION = math.radians(10)
_MOST_STRETCH = 0.1


def augment(
    images: Tensor, *, flips: Tensor | None, shift: float, distort: bool, generator: torch.Generator
) -> Tensor:
    """Shifted, mirrored and distorted copies of normalised images, float32 [N, C, S, S].

    `flips`, bool [N], says which images are mirrored; None where a mirrored image would be another class. `shift` is
    the most an image is shifted, as a share of its side.
    """
    if distort:
        images = _distorted(images, generator)
    images = _shifted(images, shift, generator)
    if flips is not None:
        images = torch.where(flips.view(-1, 1, 1, 1).to(images.device), images.flip(3), images)
    return images.contiguous(memory_format=torch.channels_last)


def _shifted(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Shift by up to that share of the side, but at least a pixel if any, the border mirrored in.

    Images of a group share their shift: a batch is a random draw, and slices are much cheaper than gathers.
    """
    side = images.size(3)
    most = max(1, round(side * share)) if share else 0
    padded = F.pad(images, (most,) * 4, mode="reflect")
    groups = padded.chunk(_SHIFT_GROUPS)
    offsets = torch.randint(0, 2 * most + 1, (len(groups), 2), generator=generator).tolist()
    return torch.cat(
        [
            group[:, :, down : down + side, right : right + side]
            for group, (down, right) in zip(groups, offsets, strict=True)
        ]
    )


def _distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to 10 degrees and stretch each axis by up to a tenth."""
    count = len(images)
    # Drawn on the CPU, so that a seed gives the same everywhere.
    draws = 2 * torch.rand(count, 3, generator=generator).to(images.device) - 1
    angle = draws[:, 0] * _MOST_ROTATION
    stretch = 1 + _MOST_STRETCH * draws[:, 1:]
    none = torch.zeros_like(angle)
    rows = [
        torch.stack([angle.cos() * stretch[:, 0], -angle.sin() * stretch[:, 1], none], 1),
        torch.stack([angle.sin() * stretch[:, 0], angle.cos() * stretch[:, 1], none], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
