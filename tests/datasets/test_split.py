import numpy as np
import pytest
from hypothesis import given, strategies as st

from image_classifier.datasets.split import choose_test_part, split_validation


def hashes(values):
    return np.array([[value, 0, 0, 0] for value in values], dtype=np.uint64)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=60), st.floats(0.01, 0.5), st.integers(0, 2**31 - 1))
def test_every_class_keeps_training_images_after_the_validation_split(labels, fraction, seed):
    labels = np.array(labels)
    train, validation = split_validation(labels, fraction, seed)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert list(train) == sorted(train)
    assert list(validation) == sorted(validation)
    for label in set(labels):
        assert (labels[train] == label).any()
        assert (labels[validation] == label).any() == ((labels == label).sum() > 1)


def test_the_validation_split_is_stratified_and_depends_on_the_seed():
    labels = np.repeat([0, 1], [800, 200])
    _, first = split_validation(labels, 0.1, 0)
    assert list(np.bincount(labels[first])) == [80, 20]
    assert np.array_equal(first, split_validation(labels, 0.1, 0)[1])
    assert not np.array_equal(first, split_validation(labels, 0.1, 1)[1])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60), st.floats(0.01, 0.9))
def test_identical_images_are_in_the_same_part(images, fraction):
    labels, values = np.array(images).T
    chosen = choose_test_part(labels, hashes(values), fraction)
    for value in set(values):
        assert len(set(chosen[values == value])) == 1
    for label in set(labels):
        assert not chosen[labels == label].all()


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_the_derived_test_part_is_stratified_and_independent_of_order(fraction):
    generator = np.random.default_rng(0)
    labels, values = np.repeat([0, 1], [300, 100]), generator.permutation(400)
    chosen = choose_test_part(labels, hashes(values), fraction)
    assert list(np.bincount(labels[chosen])) == [300 * fraction, 100 * fraction]
    order = generator.permutation(400)
    assert np.array_equal(choose_test_part(labels[order], hashes(values[order]), fraction), chosen[order])


def test_most_images_stay_in_their_part_when_the_data_grows():
    values = np.random.default_rng(0).permutation(1100)
    labels = np.zeros(1100, dtype=int)
    before, after = (choose_test_part(labels[:n], hashes(values[:n]), 0.2) for n in (1000, 1100))
    assert (before == after[:1000]).mean() > 0.97
