import itertools

import numpy as np
import pytest

from image_classifier.training.transfer.head import STRENGTHS, fit_head


def blobs(images: int, *, classes: int = 4, noise: float = 0.5, seed: int = 0):
    """Features of classes that differ in a few of 50 dimensions, of very different scales."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centers = np.random.default_rng(99).normal(0, 1, (classes, 50)) * (np.arange(50) < 8)
    scales = 10.0 ** np.linspace(-1.5, 1.5, 50)
    features = (centers[labels] + random.normal(0, noise, (images, 50))) * scales + 5
    return features.astype(np.float32), labels


def accuracy(head, features, labels) -> float:
    return float((head.logits(features).argmax(axis=1) == labels).mean())


def test_classes_are_separated_whatever_the_scales_of_the_features():
    head = fit_head(*blobs(400), 4, validation=blobs(80, seed=1))
    assert accuracy(head, *blobs(400, seed=2)) > 0.9


def test_the_regularization_is_stronger_for_noise_than_for_clear_features():
    validation = blobs(80, seed=1)
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, (200, 50)).astype(np.float32), random.integers(0, 4, 200)
    assert fit_head(*noise, 4, validation=validation).strength == STRENGTHS[0]
    assert fit_head(*blobs(400, noise=0.1), 4, validation=validation).strength < STRENGTHS[0]


def test_the_validation_images_choose_the_strength_of_a_large_problem(monkeypatch):
    monkeypatch.setattr("image_classifier.training.transfer.head._MAX_FOLDED_VALUES", 0)
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, (200, 50)).astype(np.float32), random.integers(0, 4, 200)
    assert fit_head(*noise, 4, validation=blobs(80, seed=1)).strength == STRENGTHS[0]
    head = fit_head(*blobs(400), 4, validation=blobs(80, seed=1))
    assert accuracy(head, *blobs(400, seed=2)) > 0.9


def test_constant_features_and_classes_without_images_do_no_harm():
    features, labels = blobs(200, classes=3)
    features[:, :10] = 7
    features[:, 11] = np.where(np.arange(200) == 5, 1e-12, 0)
    head = fit_head(features, labels, 6, validation=(features[:50], labels[:50]))
    assert np.isfinite(head.weight).all()
    assert set(head.logits(features).argmax(axis=1)) <= {0, 1, 2}


@pytest.mark.parametrize("images", [2, 3, 7])
def test_a_handful_of_images_is_enough(images):
    features, labels = blobs(images, classes=2, noise=0.1)
    head = fit_head(features, labels, 2, validation=(features, labels))
    assert accuracy(head, features, labels) == 1.0


def test_a_fit_ends_early_when_the_time_is_over():
    reads = itertools.count()
    head = fit_head(*blobs(400), 4, validation=blobs(80), is_over=lambda: next(reads) > 3)
    assert np.isfinite(head.weight).all()
    assert next(reads) < 20


def test_the_same_features_give_the_same_classifier():
    first, second = (fit_head(*blobs(200), 4, validation=blobs(80)) for _ in range(2))
    np.testing.assert_array_equal(first.weight, second.weight)
