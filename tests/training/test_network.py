import pytest
import torch

from image_classifier.training.network import Classifier, Network, channel_statistics


def network_of(size: int, channels: int = 3, classes: int = 5) -> Network:
    torch.manual_seed(0)
    network = Network(channels=channels, classes=classes, image_size=size, width=0.5)
    network.whiten(torch.randn(8, channels, size, size))
    return network


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 9, 16, 20, 21, 28, 32, 40, 48, 64, 96, 100, 128, 224])
def test_every_size_from_8_to_224_gives_logits(size, channels):
    logits = network_of(size, channels)(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()


def test_a_thousand_classes_are_told_apart():
    assert network_of(32, classes=1000)(torch.randn(2, 3, 32, 32)).shape == (2, 1000)


def test_the_first_layer_makes_patches_uncorrelated():
    torch.manual_seed(1)
    # Neighbouring pixels of a smoothed image are strongly correlated.
    images = torch.nn.functional.avg_pool2d(torch.randn(64, 3, 36, 36), 5, 1) * 5
    network = network_of(32)
    network.whiten(images)
    filtered = torch.nn.functional.conv2d(images, network.stem.weight[:12], stride=2)
    features = filtered.permute(1, 0, 2, 3).flatten(1)
    covariance = features @ features.T / features.size(1)
    torch.testing.assert_close(covariance, torch.eye(12), atol=0.1, rtol=0)


@pytest.mark.parametrize("mirror", [False, True])
def test_the_folded_classifier_answers_as_the_trained_network(mirror):
    network = network_of(32)
    network.train()
    for _ in range(5):
        network(torch.randn(32, 3, 32, 32))
    for norm in network.norms:
        torch.nn.init.normal_(norm.bias)
    network.eval()
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    mean, deviation = torch.tensor([120.0, 110.0, 100.0]), torch.tensor([60.0, 61.0, 62.0])
    normalised = (pixels.permute(0, 3, 1, 2).float() - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1)
    with torch.inference_mode():
        logits = network(normalised)
        if mirror:
            logits = (logits + network(normalised.flip(3))) / 2
        answer = Classifier(network, mean, deviation, mirror=mirror)(pixels)
    torch.testing.assert_close(answer, logits.softmax(1), atol=1e-5, rtol=0)


def test_a_grey_classifier_sees_equal_channels_as_one():
    network = network_of(16, channels=1).eval()
    grey = torch.randint(0, 256, (4, 16, 16, 1), dtype=torch.uint8)
    mean, deviation = channel_statistics(grey.expand(-1, -1, -1, 3).numpy(), grey=True)
    with torch.inference_mode():
        answer = Classifier(network, mean, deviation, mirror=False)(grey.expand(-1, -1, -1, 3))
        expected = network((grey.permute(0, 3, 1, 2).float() - mean) / deviation).softmax(1)
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=0)


def test_channel_statistics_of_a_constant_image_can_be_divided_by():
    mean, deviation = channel_statistics(torch.full((2, 8, 8, 3), 7, dtype=torch.uint8).numpy(), grey=False)
    assert mean.tolist() == [7, 7, 7]
    assert (deviation >= 1).all()
