"""Muon for the convolutions, momentum SGD for the rest."""

import torch
from torch import Tensor

from image_classifier.settings import Recipe
from image_classifier.training.network import Network

_CONVOLUTION_MOMENTUM = 0.6
_MOMENTUM = 0.85
_NEWTON_SCHULZ_STEPS = 3
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Optimizer:
    """Steps a network. Its state is a flat mapping of tensors, so that a checkpoint needs no pickle.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) moves a convolution along the orthogonalised
    momentum of its gradient; its norm is held at that of an orthogonal matrix. Biases and head take SGD with
    Nesterov momentum.
    """

    def __init__(self, network: Network, recipe: Recipe, *, bfloat16: bool) -> None:
        """With `bfloat16` the momentum is orthogonalised in it, as Muon's author does: it need be so only roughly."""
        self._precision = torch.bfloat16 if bfloat16 else torch.float32
        self._convolution_rate = recipe.convolution_rate
        parameters = dict(network.named_parameters())
        trained = {name: weight for name, weight in parameters.items() if weight.requires_grad}
        self._convolutions: list[Tensor] = [
            trained.pop(name) for name in list(trained) if name.startswith("convolutions.")
        ]
        self._others: list[tuple[Tensor, float]] = [
            (weight, recipe.head_rate if name.startswith("head.") else recipe.bias_rate)
            for name, weight in trained.items()
        ]
        self._momenta = [torch.zeros_like(weight) for weight in self._all()]

    @property
    def state(self) -> dict[str, Tensor]:
        """The momenta by name; copy into these tensors to restore."""
        return {f"momentum.{number}": tensor for number, tensor in enumerate(self._momenta)}

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Apply the gradients, at `share` (0..1) of the full learning rates, and clear them."""
        momenta = iter(self._momenta)
        for weight in self._convolutions:
            update = _nesterov(weight, next(momenta), _CONVOLUTION_MOMENTUM)
            matrix = update.reshape(len(update), -1).to(self._precision)
            update = _orthogonalised(matrix).to(weight.dtype).view_as(weight)
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            weight.add_(update, alpha=-self._convolution_rate * share)
        for (weight, rate), momentum in zip(self._others, momenta, strict=True):
            weight.add_(_nesterov(weight, momentum, _MOMENTUM), alpha=-rate * share)
        for weight in self._all():
            weight.grad = None

    def _all(self) -> list[Tensor]:
        return self._convolutions + [weight for weight, _ in self._others]


def _nesterov(weight: Tensor, momentum: Tensor, decay: float) -> Tensor:
    gradient = weight.grad
    assert gradient is not None
    momentum.mul_(decay).add_(gradient)
    return gradient.add(momentum, alpha=decay)


def _orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest matrix with equal singular values, roughly, by the quintic Newton-Schulz iteration."""
    a, b, c = _NEWTON_SCHULZ
    wide: Tensor = matrix / (matrix.norm() + 1e-7)
    tall = wide.size(0) > wide.size(1)
    if tall:
        wide = wide.T
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if tall else wide
