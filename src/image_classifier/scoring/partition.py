"""Partitions of a source: the unit of work of a process, and the content of one score file."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets import UNLABELED, ImageSource, Shard

MIN_IMAGES, MAX_IMAGES = 256, 8192
"""Images in a partition, as far as the shards allow: few, so that little is lost with a process; but few files."""
_PARTITIONS = 128  # of a medium-sized source: several for each process, so that all finish at about the same time


@dataclass(frozen=True)
class Partition:
    """Consecutive images of a source; small and picklable."""

    number: int
    first: int  # row of its first image in the source
    shards: tuple[Shard, ...]
    names: tuple[str, ...]  # origin of each image, [N]
    labels: NDArray[np.int64]  # int64 [N], indices into the source's classes, or UNLABELED

    @property
    def count(self) -> int:
        return len(self.names)


def split_source(source: ImageSource, *, labeled: bool) -> list[Partition]:
    """Split a source into partitions of whole shards, in a way that depends on the source alone.

    Unless `labeled`, the labels of the source are dropped.
    """
    total = len(source.labels)
    wanted = min(max(total // _PARTITIONS, MIN_IMAGES), MAX_IMAGES)
    partitions: list[Partition] = []
    shards: list[Shard] = []
    first = count = 0
    for index, shard in enumerate(source.shards):
        shards.append(shard)
        count += shard.count
        if count >= wanted or index == len(source.shards) - 1:
            rows = slice(first, first + count)
            labels = source.labels[rows] if labeled else np.full(count, UNLABELED)
            partitions.append(Partition(len(partitions), first, tuple(shards), tuple(source.names[rows]), labels))
            shards, first, count = [], first + count, 0
    return partitions
