import pytest
import torch

from image_classifier.training.network import Classifier, Network

pytestmark = pytest.mark.slow


def network_of(size: int, channels: int = 3, classes: int = 5) -> Network:
    torch.manual_seed(0)
    network = Network(channels=channels, classes=classes, image_size=size, width=0.5)
    network.whiten(torch.randn(8, channels, size, size))
    return network


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 9, 16, 20, 21, 28, 32, 40, 48, 64, 96, 100, 128, 224])
def test_logits_are_finite_for_every_size_from_8_to_224(size, channels):
    logits = network_of(size, channels)(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()


def test_a_network_can_have_a_thousand_classes():
    assert network_of(32, classes=1000)(torch.randn(2, 3, 32, 32)).shape == (2, 1000)


def test_the_first_layer_decorrelates_patches():
    torch.manual_seed(1)
    # Neighboring pixels of a smoothed image are strongly correlated.
    images = torch.nn.functional.avg_pool2d(torch.randn(64, 3, 36, 36), 5, 1) * 5
    network = network_of(32)
    network.whiten(images)
    filtered = torch.nn.functional.conv2d(images, network.stem.weight[:12], stride=2)
    features = filtered.permute(1, 0, 2, 3).flatten(1)
    covariance = features @ features.T / features.size(1)
    torch.testing.assert_close(covariance, torch.eye(12), atol=0.1, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_the_classifier_with_folded_batch_norms_returns_the_network_s_probabilities(flip):
    network = network_of(32)
    network.train()
    for _ in range(5):
        network(torch.randn(32, 3, 32, 32))
    for norm in network.norms:
        torch.nn.init.normal_(norm.bias)
    network.eval()
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    mean, deviation = torch.tensor([120.0, 110.0, 100.0]), torch.tensor([60.0, 61.0, 62.0])
    normalized = (pixels.permute(0, 3, 1, 2).float() - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1)
    with torch.inference_mode():
        logits = network(normalized)
        if flip:
            logits = (logits + network(normalized.flip(3))) / 2
        probabilities = Classifier(network, mean, deviation, test_time_flip=flip)(pixels)
    torch.testing.assert_close(probabilities, logits.softmax(1), atol=1e-5, rtol=0)


def test_a_grayscale_classifier_uses_one_of_three_equal_channels():
    network = network_of(16, channels=1).eval()
    images = torch.randint(0, 256, (4, 16, 16, 1), dtype=torch.uint8)
    mean, deviation = torch.tensor([120.0]), torch.tensor([60.0])
    with torch.inference_mode():
        probabilities = Classifier(network, mean, deviation, test_time_flip=False)(images.expand(-1, -1, -1, 3))
        expected = network((images.permute(0, 3, 1, 2).float() - mean) / deviation).softmax(1)
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=0)
