import hashlib

import numpy as np
import pytest
from hypothesis import given, strategies as st

from image_classifier.datasets import Dataset, DatasetPart
from image_classifier.datasets.split import choose_test_part, split_validation

IMAGES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60)
"""Class and content of each image."""
FRACTIONS = st.floats(0.01, 0.9)


def hashes(values):
    digests = b"".join(hashlib.sha256(str(value).encode()).digest() for value in values)
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 4)


def chosen_of(labels, values, fraction):
    return choose_test_part(np.asarray(labels), hashes(values), fraction)


def dataset_of(labels, validation_rows=None, contents=None):
    labels = np.array(labels)
    names = list(map(str, range(len(labels))))
    part = DatasetPart(np.zeros((len(labels), 8, 8, 3), np.uint8), labels, names, hashes(contents or names)[:, 0])
    return Dataset("labels", "d" * 64, ("a", "b"), 8, True, False, part, part, (), validation_rows)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=60), st.floats(0.01, 0.5), st.integers(0, 2**31 - 1))
def test_every_class_keeps_training_images_after_the_validation_split(labels, fraction, seed):
    train, validation = split_validation(dataset_of(labels), fraction, seed)
    labels = np.array(labels)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert list(train) == sorted(train)
    assert list(validation) == sorted(validation)
    for label in set(labels):
        assert (labels[train] == label).any()
        assert (labels[validation] == label).any() == ((labels == label).sum() > 1)


def test_the_validation_split_is_stratified_and_depends_on_the_seed():
    labels = np.repeat([0, 1], [800, 200])
    dataset = dataset_of(labels)
    _, first = split_validation(dataset, 0.1, 0)
    assert list(np.bincount(labels[first])) == [80, 20]
    assert np.array_equal(first, split_validation(dataset, 0.1, 0)[1])
    assert not np.array_equal(first, split_validation(dataset, 0.1, 1)[1])


@given(IMAGES, FRACTIONS, st.integers(0, 99))
def test_identical_images_of_a_class_are_on_one_side_of_the_validation_split(images, fraction, seed):
    labels, contents = map(np.array, zip(*images, strict=True))
    train, validation = split_validation(dataset_of(labels, contents=contents.tolist()), fraction, seed)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    for label in set(labels):
        of_class = labels == label
        trained, validated = (set(contents[rows[of_class[rows]]]) for rows in (train, validation))
        assert trained
        assert bool(validated) == (of_class.sum() > 1)
        assert not trained & validated or len(set(contents[of_class])) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_photo_that_is_half_of_its_class_is_trained_on_and_not_validated_on(seed):
    contents = [0] * 40 + list(range(1, 41))
    _, validation = split_validation(dataset_of([0] * 80, contents=contents), 0.1, seed)
    assert len(validation) == 8
    assert min(validation) >= 40


def test_without_copies_the_validation_split_is_that_of_earlier_versions():
    labels = np.repeat([0, 1], [20, 10])
    generator = np.random.default_rng(3)
    expected = [*generator.permutation(20)[:4], *(20 + generator.permutation(10)[:2])]
    assert list(split_validation(dataset_of(labels), 0.2, 3)[1]) == sorted(expected)


@pytest.mark.parametrize(("fraction", "seed"), [(0.01, 0), (0.5, 7)])
def test_the_validation_part_of_the_data_is_the_validation_split(fraction, seed):
    dataset = dataset_of([0, 0, 1, 1, 0, 1], np.array([4, 5]))
    train, validation = split_validation(dataset, fraction, seed)
    assert (list(train), list(validation)) == ([0, 1, 2, 3], [4, 5])


@given(IMAGES, FRACTIONS)
def test_identical_images_are_in_the_same_part(images, fraction):
    labels, values = np.array(images).T
    chosen = chosen_of(labels, values, fraction)
    for value in set(values):
        assert len(set(chosen[values == value])) == 1


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), FRACTIONS)
def test_every_class_of_different_images_is_trained_and_tested(labels, fraction):
    labels = np.array(labels)
    chosen = chosen_of(labels, range(len(labels)), fraction)
    for label in set(labels):
        members = chosen[labels == label]
        assert not members.all()
        assert members.any() == (len(members) > 1)


@given(IMAGES, FRACTIONS)
def test_every_class_with_an_image_of_no_other_class_is_trained_and_tested(images, fraction):
    labels, values = np.array(images).T
    chosen = chosen_of(labels, values, fraction)
    for label in set(labels):
        alone = set(values[labels == label]) - set(values[labels != label])
        assert not chosen[labels == label].all()
        assert chosen[labels == label].any() or not alone or len(set(values[labels == label])) == 1


@given(IMAGES, FRACTIONS, FRACTIONS)
def test_a_higher_fraction_only_adds_to_the_test_part(images, one, other):
    labels, values = np.array(images).T
    low, high = (chosen_of(labels, values, fraction) for fraction in sorted([one, other]))
    assert not (low & ~high).any()


def test_a_test_part_of_twice_the_fraction_has_twice_the_images():
    labels = np.repeat([0, 1], 5000)
    low, high = (chosen_of(labels, range(10_000), fraction) for fraction in (0.2, 0.4))
    assert low.mean() == pytest.approx(0.2, abs=0.02)
    assert high.mean() == pytest.approx(0.4, abs=0.02)
    assert not (low & ~high).any()


@given(IMAGES, FRACTIONS, st.integers(0, 2**31 - 1))
def test_the_order_of_the_images_does_not_matter(images, fraction, seed):
    labels, values = np.array(images).T
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = chosen_of(labels, values, fraction)
    assert np.array_equal(chosen_of(labels[order], values[order], fraction), chosen[order])


@given(st.integers(0, 10**6), st.integers(1, 400))
def test_no_image_changes_sides_when_the_data_grows(first, growth):
    values = range(first, first + 400 + growth)
    labels = np.arange(len(values)) % 2
    before, after = (chosen_of(labels[:n], values[:n], 0.3) for n in (400, len(values)))
    assert np.array_equal(before, after[:400])


@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 30), FRACTIONS)
def test_at_most_the_image_of_the_lowest_and_of_the_highest_hash_change_sides_in_a_small_class(
    first, count, growth, fraction
):
    values = range(first, first + count + growth)
    labels = np.zeros(len(values), dtype=int)
    before, after = (chosen_of(labels[:n], values[:n], fraction) for n in (count, len(values)))
    order = np.argsort(hashes(values[:count])[:, 0])
    assert np.array_equal(before[order[1:-1]], after[:count][order[1:-1]])


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.4])
def test_fifty_identical_images_that_are_more_than_the_test_part_are_trained_on(fraction):
    """Of 100 images of a class; for every content, on either side of the fraction."""
    for content in range(30):
        values = [content] * 50 + list(range(100, 150))
        chosen = chosen_of(np.zeros(100, dtype=int), values, fraction)
        assert not chosen[:50].any()
        assert chosen[50:].any()


def test_fifty_identical_images_of_a_large_class_are_on_the_side_of_their_hash():
    for content in range(30):
        values = [content] * 50 + list(range(100, 1100))
        chosen = chosen_of(np.zeros(1050, dtype=int), values, 0.2)
        assert set(chosen[:50]) == {bool(hashes([content])[0, 0] < np.uint64(0.2 * 2**64))}


def test_an_image_of_two_classes_is_not_the_only_test_image_of_a_class():
    lowest, *others = sorted(range(20), key=lambda value: hashes([value])[0, 0])
    labels, values = [0] * 10 + [1] * 10, [lowest, *others[:9], lowest, *others[9:18]]
    chosen = chosen_of(labels, values, 0.01)
    assert (chosen[:10].sum(), chosen[10:].sum()) == (1, 1)
    assert not chosen[[0, 10]].any()
