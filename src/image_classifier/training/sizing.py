"""Choice of numeric precision and network width, by timing a few training steps on this machine."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from image_classifier.errors import TrainingError
from image_classifier.training.network import Network
from image_classifier.training.plan import Clock, TrainingInputs

WIDTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)

_IMAGES_PER_SQUARED_WIDTH = 140_000
"""Number of images that a network of width 1 must see before a wider one is more accurate in the same time.

The work per image grows with the square of the width, and the best width with the fourth root of the budget; the
constant was measured on CIFAR-10's validation split at 60, 180 and 600 s.
"""
_MAX_BFLOAT16_TIME_FRACTION = 0.9
"""Maximum time of a step in bfloat16, as a fraction of float32's; processors without its instructions are slower."""
_HALF_SIZE_SPEED_UP = 4
_TIMED_IMAGES = 64
_TIMED_STEPS = 3


class Sizing(NamedTuple):
    """Precision and width of the network."""

    bfloat16: bool
    """Whether convolutions run in bfloat16; weights, sums and gradients of weights are always float32."""
    width: float


def choose_sizing(
    inputs: TrainingInputs, sample: Tensor, new_network: Callable[[float], Network], clock: Clock
) -> Sizing:
    """Choose bfloat16 if it is faster, and the widest network that sees enough images within the budget.

    `sample` is normalized images, float32 [N, C, S, S]; `new_network` builds a network of a width. Raises TrainingError
    if the budget is too short for one step of the narrowest network.
    """
    plan = inputs.plan
    images = sample[: min(inputs.batch_size, _TIMED_IMAGES)].contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(len(images), dtype=torch.int64, device=inputs.device)

    def seconds_per_image(network: Network, *, bfloat16: bool) -> float:
        steps = (_seconds_of_step(network, images, labels, bfloat16=bfloat16, clock=clock) for _ in range(_TIMED_STEPS))
        return min(steps) / len(images)

    widths = (plan.recipe.width,) if plan.recipe.width else WIDTHS
    network = new_network(widths[len(widths) // 2])
    float32_seconds, bfloat16_seconds = (seconds_per_image(network, bfloat16=bfloat16) for bfloat16 in (False, True))
    bfloat16 = bfloat16_seconds < _MAX_BFLOAT16_TIME_FRACTION * float32_seconds
    chosen = widths[0]
    for width in widths:
        seconds = seconds_per_image(new_network(width), bfloat16=bfloat16)
        if width == widths[0] and seconds * inputs.batch_size > plan.budget:
            raise TrainingError(
                f"the budget of {plan.budget:g} s is too short: one training step takes "
                f"{seconds * inputs.batch_size:.2g} s on this machine; use a larger --budget or a smaller --image-size"
            )
        images_seen = plan.budget * plan.group.size / seconds
        images_seen *= 1 + (_HALF_SIZE_SPEED_UP - 1) * inputs.half_size_seconds / plan.budget
        if images_seen < _IMAGES_PER_SQUARED_WIDTH * width**2:
            break
        chosen = width
    return Sizing(bfloat16, chosen)


def _seconds_of_step(network: Network, images: Tensor, labels: Tensor, *, bfloat16: bool, clock: Clock) -> float:
    started = clock()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        logits = network(images)
    loss = F.cross_entropy(logits.float(), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    loss.item()  # waits for the device
    return clock() - started
