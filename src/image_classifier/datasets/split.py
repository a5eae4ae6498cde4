"""Which images go to which part: the test part by content, the validation part by seed."""

import numpy as np
from numpy.typing import NDArray


def split_validation(
    labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the training part into train and validation, class by class, at random by `seed`.

    Returns the sorted indices of both. A class keeps at least one image in train, and from two images on has
    at least one in validation.
    """
    generator = np.random.default_rng(seed)
    in_validation = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        wanted = max(1, round(fraction * len(members)))
        in_validation[members[: min(wanted, len(members) - 1)]] = True
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def choose_test(labels: NDArray[np.int64], hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Choose a test part where the data has none; depends on the images alone, not on order, name or seed.

    In each class the images are ranked by the SHA-256 of their content and the first `fraction` are taken, so
    data that grows keeps most of its old assignment. Identical images land on the same side. A class keeps an
    image in train.

    labels: int64 [N]; hashes: uint64 [N, 4], the SHA-256 as four big-endian words. Returns bool [N].
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        distinct, group = np.unique(hashes[members], axis=0, return_inverse=True)
        wanted = round(fraction * len(members))
        taken = np.cumsum(np.bincount(group.ravel()))
        groups = int(np.searchsorted(taken, wanted, side="right"))
        groups = min(max(groups, 1), len(distinct) - 1)
        chosen[members[group.ravel() < groups]] = True
    return chosen & ~_in_both(hashes, chosen)


def _in_both(hashes: NDArray[np.uint64], chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows whose content is on both sides: identical images of two classes."""
    _, group = np.unique(hashes, axis=0, return_inverse=True)
    group = group.ravel()
    count = np.bincount(group)
    count_chosen = np.bincount(group, weights=chosen)
    mixed: NDArray[np.bool_] = ((count_chosen > 0) & (count_chosen < count))[group]
    return mixed
