import pytest
import torch

from image_classifier.settings import Recipe
from image_classifier.training.network import Network
from image_classifier.training.optimizer import Optimizer


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network(channels=3, classes=4, image_size=8, width=1.0)


def set_gradients(network: Network) -> None:
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight) if weight.requires_grad else None


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_convolution_moves_along_a_nearly_orthogonal_matrix(network, bfloat16):
    optimizer = Optimizer(network, Recipe(convolution_rate=0.5), bfloat16=bfloat16)
    weight = network.convolutions[0].weight
    before = weight.detach() * len(weight) ** 0.5 / weight.detach().norm()
    set_gradients(network)
    optimizer.step(1.0)
    update = (before - weight.detach()).flatten(1) / 0.5
    singular_values = torch.linalg.svdvals(update)
    assert 0.5 < singular_values.min() < singular_values.max() < 1.3


def test_biases_and_head_move_along_the_nesterov_momentum(network):
    optimizer = Optimizer(network, Recipe(head_rate=0.1, bias_rate=0.2), bfloat16=False)
    expected = torch.optim.SGD(
        [{"params": [network.head.weight.detach().clone().requires_grad_()], "lr": 0.1}], momentum=0.85, nesterov=True
    )
    (copy,) = expected.param_groups[0]["params"]
    for _ in range(3):
        set_gradients(network)
        copy.grad = network.head.weight.grad.clone()
        optimizer.step(1.0)
        expected.step()
    torch.testing.assert_close(network.head.weight, copy)


def test_a_step_clears_the_gradients_and_leaves_frozen_weights(network):
    frozen = {name: weight.clone() for name, weight in network.named_parameters() if not weight.requires_grad}
    optimizer = Optimizer(network, Recipe(), bfloat16=False)
    set_gradients(network)
    optimizer.step(0.5)
    assert all(weight.grad is None for weight in network.parameters())
    assert "stem.weight" in frozen
    assert all(torch.equal(network.get_parameter(name), weight) for name, weight in frozen.items())
