import pytest
import torch

from image_classifier.training.trained import fit_temperature


def test_the_temperature_makes_mean_confidence_equal_to_accuracy():
    generator = torch.Generator().manual_seed(0)
    calibrated = torch.randn(20_000, 5, generator=generator) * 2
    labels = torch.multinomial(calibrated.softmax(1), 1, generator=generator).squeeze(1)
    assert fit_temperature(calibrated, labels) == pytest.approx(1.0, rel=0.05)
    assert fit_temperature(calibrated * 3, labels) == pytest.approx(3.0, rel=0.05)
    assert fit_temperature(calibrated / 10, labels) == pytest.approx(0.1, rel=0.05)


def test_a_model_without_errors_is_not_scaled_to_certainty():
    logits = torch.eye(10).repeat(10, 1)
    confidence = (logits / fit_temperature(logits, torch.arange(10).repeat(10))).softmax(1).max()
    assert 0.98 < confidence < 0.999
