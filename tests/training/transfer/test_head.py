import itertools

import numpy as np
import pytest

from image_classifier.training.transfer import head as head_module
from image_classifier.training.transfer.head import STRENGTHS, cross_validated_probabilities, fit_head


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


def many_classes(images: int, seed: int):
    """Features of 30 classes with some images each."""
    labels = np.arange(30).repeat(images)
    centers = np.random.default_rng(99).normal(0, 1, (30, 50))
    return (centers[labels] + np.random.default_rng(seed).normal(0, 0.7, (len(labels), 50))).astype(np.float32), labels


def test_many_small_classes_are_separated_as_well_as_by_the_logistic_regression(monkeypatch):
    data, validation, test = many_classes(7, 0), many_classes(2, 1), many_classes(10, 2)
    slow = fit_head(*data, 30, validation=validation, strength=1e-4)
    monkeypatch.setattr(head_module, "_MAX_UNCHECKED_VALUES", 0)
    monkeypatch.setattr(head_module, "_minimize", lambda *_: pytest.fail("the logistic regression is too slow"))
    fast = fit_head(*data, 30, validation=validation)
    assert accuracy(fast, *test) >= accuracy(slow, *test) - 0.02
    assert accuracy(fast, *test) > 0.9
    assert fit_head(*data, 30, validation=validation, strength=fast.strength).strength == fast.strength


def test_many_small_classes_are_fitted_once_when_the_time_is_over(monkeypatch):
    monkeypatch.setattr(head_module, "_MAX_UNCHECKED_VALUES", 0)
    data = many_classes(7, 0)
    head = fit_head(*data, 30, validation=many_classes(2, 1), is_over=lambda: True)
    assert head.strength == head_module._RIDGES[0]
    assert accuracy(head, *data) > 0.9


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


def test_cross_validated_probabilities_are_those_of_images_that_were_not_fitted():
    features, labels = blobs(200, noise=0.2)
    probabilities = cross_validated_probabilities(features, labels, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.9
    random = np.random.default_rng(0)
    guessed = cross_validated_probabilities(random.normal(0, 1, (200, 50)).astype(np.float32), labels, 4)
    assert (guessed.argmax(axis=1) == labels).mean() < 0.4
