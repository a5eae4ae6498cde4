"""Splits: the test part by image content, the validation split by the data's own part or by seed."""

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.dataset import Dataset


def split_validation(dataset: Dataset, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split `dataset.train` into images to train on and the validation split. Returns the sorted indices of both.

    The validation part of the data is the split. Without one it is chosen at random by `seed`, stratified by class; a
    class of two images or more then has at least one in each. Identical images of a class are on the same side, unless
    all of its images are identical; those that are more than `fraction` of the class are trained on.
    """
    labels = dataset.train.labels
    in_validation = np.zeros(len(labels), dtype=bool)
    if dataset.validation_rows is not None:
        in_validation[dataset.validation_rows] = True
    else:
        generator = np.random.default_rng(seed)
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            in_validation[_choose_validation(members, dataset.train.hashes[members], fraction, generator)] = True
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def _choose_validation(
    members: NDArray[np.int64], hashes: NDArray[np.uint64], fraction: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Choose validation images of one class, of which `members` are the rows and `hashes` the contents."""
    count = min(max(1, round(fraction * len(members))), len(members) - 1)
    _, first, content, copies = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == 1:
        return generator.permutation(members)[:count]
    # In the order of the rows, so that a class without copies has the same split as without this grouping.
    order = generator.permutation(np.argsort(first))
    fitting = order[copies[order] <= count]
    chosen = fitting[np.cumsum(copies[fitting]) <= count]
    if not len(chosen):
        chosen = order[[np.argmin(copies[order])]]
    selected: NDArray[np.int64] = members[np.isin(content, chosen)]
    return selected


def stratified_folds(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The fold of each image, int64 [N]: those of a class are spread over all folds, and the folds have equal sizes."""
    folds = np.empty(len(labels), np.int64)
    folds[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % count
    return folds


def choose_test_part(labels: NDArray[np.int64], hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Choose the test part of a data set without one, by image content: independent of order, names and seed.

    An image is in the test part if its hash, as a fraction of the range, is below `fraction`. So an image stays in its
    part when the data grows, and a higher `fraction` only adds to the test part. Identical images are in the same part,
    also if their classes differ. Exceptions in each class:

    - Identical images that are more than `fraction` of the class are in the training part. They change parts if the
      class grows enough, or if copies are added.
    - The image of the lowest hash is in the test part, so that every class with two different images is tested. If its
      hash is not below `fraction`, it moves to the training part when an image with a lower hash is added.
    - The image of the highest hash is in the training part. If its hash is below `fraction`, it moves to the test part
      when an image with a higher hash is added.

    The lowest is one of the images without copies in this or another class, if there are any.

    labels: int64 [N]; hashes: uint64 [N, 4], the SHA-256 as four big-endian words. Returns bool [N].
    """
    # Equal contents have equal numbers, in the order of their hashes.
    distinct, contents = np.unique(hashes, axis=0, return_inverse=True)
    pairs, copies = np.unique(labels * len(distinct) + contents.ravel(), return_counts=True)
    classes, content = np.divmod(pairs, len(distinct))
    shared = np.bincount(content)[content] > 1
    chosen = distinct[:, 0] < np.uint64(fraction * 2**64)
    chosen[content[copies > np.maximum(1, fraction * np.bincount(labels)[classes])]] = False
    by_class = np.lexsort((content, copies, shared, classes))
    _, first, different = np.unique(classes, return_index=True, return_counts=True)
    lowest = by_class[first[different > 1]]
    is_lowest = np.zeros(len(distinct), dtype=int)
    is_lowest[content[lowest]] = 1
    # Preferred for the highest hash: images that are the lowest of no class, then those of another class.
    last_choice = is_lowest[content]
    last_choice[lowest] = 2
    highest = np.lexsort((-content, last_choice, classes))[first]
    chosen[content[lowest]] = True
    chosen[content[highest]] = False
    in_test: NDArray[np.bool_] = chosen[contents.ravel()]
    return in_test
