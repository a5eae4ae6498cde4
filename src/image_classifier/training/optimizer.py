"""The optimizer: Muon for the convolutions, SGD with Nesterov momentum for biases and head."""

import torch
from torch import Tensor

from image_classifier.settings import Recipe
from image_classifier.training.network import Network

_CONVOLUTION_MOMENTUM = 0.6
_MOMENTUM = 0.85
_NEWTON_SCHULZ_STEPS = 3
_NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Optimizer:
    """Updates a network. Its state is a flat mapping of tensors, so a checkpoint needs no pickle.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) moves the weight of a convolution along the
    orthogonalized momentum of its gradient; the weight's norm is held at that of an orthogonal matrix.

    torch.optim.Muon orthogonalizes in bfloat16 on every machine; on processors without bfloat16 instructions (measured
    with AVX2 only) that takes 20 to 30 times as long as in float32, longer than the rest of a training step.
    """

    def __init__(self, network: Network, recipe: Recipe, *, bfloat16: bool) -> None:
        """With `bfloat16` the momentum is orthogonalized in bfloat16, which is precise enough."""
        self._precision = torch.bfloat16 if bfloat16 else torch.float32
        self._convolution_rate = recipe.convolution_rate
        trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        convolutions = [name for name in trained if name.startswith("convolutions.")]
        self._convolutions: list[Tensor] = [trained.pop(name) for name in convolutions]
        self._others: list[tuple[Tensor, float]] = [
            (weight, recipe.head_rate if name.startswith("head.") else recipe.bias_rate)
            for name, weight in trained.items()
        ]
        self._momenta = [torch.zeros_like(weight) for weight in self._weights()]

    @property
    def state(self) -> dict[str, Tensor]:
        """The momenta by name; copy into these tensors to restore a checkpoint."""
        return {f"momentum.{number}": tensor for number, tensor in enumerate(self._momenta)}

    @torch.no_grad()
    def step(self, rate_fraction: float) -> None:
        """Apply the gradients at a fraction, 0 to 1, of the initial learning rates, and clear them."""
        momenta = iter(self._momenta)
        for weight in self._convolutions:
            update = _nesterov_update(weight, next(momenta), _CONVOLUTION_MOMENTUM)
            matrix = update.reshape(len(update), -1).to(self._precision)
            update = _orthogonalize(matrix).to(weight.dtype).view_as(weight)
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            weight.add_(update, alpha=-self._convolution_rate * rate_fraction)
        for (weight, rate), momentum in zip(self._others, momenta, strict=True):
            weight.add_(_nesterov_update(weight, momentum, _MOMENTUM), alpha=-rate * rate_fraction)
        for weight in self._weights():
            weight.grad = None

    def _weights(self) -> list[Tensor]:
        return self._convolutions + [weight for weight, _ in self._others]


def _nesterov_update(weight: Tensor, momentum: Tensor, decay: float) -> Tensor:
    gradient = weight.grad
    assert gradient is not None
    momentum.mul_(decay).add_(gradient)
    return gradient.add(momentum, alpha=decay)


def _orthogonalize(matrix: Tensor) -> Tensor:
    """Approximate the nearest orthogonal matrix with the quintic Newton-Schulz iteration (Jordan et al. 2024)."""
    a, b, c = _NEWTON_SCHULZ_COEFFICIENTS
    wide: Tensor = matrix / (matrix.norm() + 1e-7)
    is_tall = wide.size(0) > wide.size(1)
    if is_tall:
        wide = wide.T
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if is_tall else wide
