"""The test of mirrored images, on logits as networks give them for images and for their mirror images."""

import numpy as np
import pytest

from image_classifier.training.mirroring import choose_rows, mirrored_images_keep_their_class


def logits(labels, classes, margin, *, seed=0):
    """Logits whose mean is higher by `margin` for the class in the label."""
    noise = np.random.default_rng(seed).normal(0, 1, (len(labels), classes))
    return noise + margin * np.eye(classes)[labels]


def labels_of(classes, each):
    return np.repeat(np.arange(classes), each)


def exchanged(labels):
    """Labels of the mirror images if mirroring exchanges classes 0 and 1."""
    return np.where(labels < 2, 1 - labels, labels)


@pytest.mark.parametrize("classes", [2, 10])
def test_classes_that_mirroring_exchanges_are_found_before_the_network_is_sure(classes):
    labels = labels_of(classes, 30)
    images, mirrored = logits(labels, classes, 1.5), logits(exchanged(labels), classes, 1.5, seed=1)
    assert (images.argmax(1) == labels).mean() < 0.9
    assert mirrored_images_keep_their_class(images, mirrored, labels) is False


@pytest.mark.parametrize("seed", range(5))
def test_mirrored_photos_keep_their_class_though_the_network_is_less_sure_of_them(seed):
    labels = labels_of(10, 30)
    images, mirrored = logits(labels, 10, 3, seed=seed), logits(labels, 10, 1.5, seed=seed + 10)
    assert mirrored_images_keep_their_class(images, mirrored, labels) is True


def test_a_network_that_prefers_a_class_is_not_mistaken_for_one_that_mirroring_exchanges():
    labels = labels_of(2, 30)
    images, mirrored = logits(labels, 2, 3), logits(labels, 2, 2, seed=1)
    mirrored[:, 1] += 3
    assert (mirrored.argmax(1) == 1).mean() > 0.8
    assert mirrored_images_keep_their_class(images, mirrored, labels) is True


def test_a_class_of_which_only_part_changes_keeps_its_class():
    labels = labels_of(2, 30)
    mirror_labels = np.where(np.arange(60) % 10 == 0, 1 - labels, labels)
    assert mirrored_images_keep_their_class(logits(labels, 2, 4), logits(mirror_labels, 2, 4, seed=1), labels) is True


@pytest.mark.parametrize(("each", "margin"), [(2, 9), (30, 0)], ids=["few images", "an untrained network"])
def test_without_evidence_nothing_is_decided(each, margin):
    labels = labels_of(3, each)
    images, mirrored = logits(labels, 3, margin), logits(labels, 3, margin, seed=1)
    assert mirrored_images_keep_their_class(images, mirrored, labels) is None


def test_letters_of_which_each_has_few_images_lose_their_class():
    labels = labels_of(26, 4)
    images = logits(labels, 26, 6)
    mirrored = logits(np.where(labels < 17, (labels + 1) % 17, labels), 26, 6, seed=1)
    assert mirrored_images_keep_their_class(images, mirrored, labels) is False


@pytest.mark.parametrize(("classes", "each", "count"), [(2, 100, 60), (10, 5, 50), (100, 30, 600), (1_000, 1, 600)])
def test_the_chosen_images_are_few_and_of_all_classes(classes, each, count):
    labels = np.random.default_rng(0).permutation(labels_of(classes, each))
    rows = choose_rows(labels)
    assert len(rows) == count
    assert (np.diff(rows) > 0).all()
    assert len(set(labels[rows])) == min(classes, count)
