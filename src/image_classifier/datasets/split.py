"""Splits: the test part by image content, the validation split by seed."""

import numpy as np
from numpy.typing import NDArray


def split_validation(
    labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the training part into training and validation images, stratified by class, at random by `seed`.

    Returns the sorted indices of both. A class of two images or more has at least one in each part.
    """
    generator = np.random.default_rng(seed)
    in_validation = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = max(1, round(fraction * len(members)))
        in_validation[members[: min(count, len(members) - 1)]] = True
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def choose_test_part(labels: NDArray[np.int64], hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Choose the test part of a data set without one, by image content: independent of order, names and seed.

    In each class the images are ranked by the SHA-256 of their content and the first `fraction` is chosen, so most
    images stay in their part if the data set grows. Identical images are in the same part. Each class keeps at least
    one training image.

    labels: int64 [N]; hashes: uint64 [N, 4], the SHA-256 as four big-endian words. Returns bool [N].
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        distinct, group = np.unique(hashes[members], axis=0, return_inverse=True)
        count = round(fraction * len(members))
        cumulative = np.cumsum(np.bincount(group.ravel()))
        groups = int(np.searchsorted(cumulative, count, side="right"))
        groups = min(max(groups, 1), len(distinct) - 1)
        chosen[members[group.ravel() < groups]] = True
    return chosen & ~_in_both_parts(hashes, chosen)


def _in_both_parts(hashes: NDArray[np.uint64], chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows whose content is in both parts: identical images of two classes."""
    _, group = np.unique(hashes, axis=0, return_inverse=True)
    share = (np.bincount(group.ravel(), weights=chosen) / np.bincount(group.ravel()))[group.ravel()]
    mixed: NDArray[np.bool_] = (share > 0) & (share < 1)
    return mixed
