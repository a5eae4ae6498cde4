"""A part of a source: what one process scores at a time, and one file of the results holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets import NO_CLASS, ImageSource, Shard

FEWEST_IMAGES, MOST_IMAGES = 256, 8192
"""Of a part, where the shards allow it: so few that little is lost with a process, so many that files stay few."""
_PARTS = 128
"""Of a source of middling size: several for each process, so that all of them end at about the same time."""


@dataclass(frozen=True)
class Partition:
    """Some images of a source that follow each other; small and picklable."""

    number: int
    first: int
    """The row of its first image in the whole source."""
    shards: tuple[Shard, ...]
    names: tuple[str, ...]
    """Where each image comes from, [N]."""
    given: NDArray[np.int64]
    """int64 [N], indices into the source's classes, or NO_CLASS."""

    @property
    def count(self) -> int:
        return len(self.names)


def partitions_of(source: ImageSource, *, labelled: bool) -> list[Partition]:
    """All images of a source in parts of whole shards; the same for the same source, wherever it is scored."""
    total = len(source.labels)
    wanted = min(max(total // _PARTS, FEWEST_IMAGES), MOST_IMAGES)
    parts: list[Partition] = []
    shards: list[Shard] = []
    first = count = 0
    for place, shard in enumerate(source.shards):
        shards.append(shard)
        count += shard.count
        if count >= wanted or place == len(source.shards) - 1:
            rows = slice(first, first + count)
            given = source.labels[rows] if labelled else np.full(count, NO_CLASS)
            parts.append(Partition(len(parts), first, tuple(shards), tuple(source.names[rows]), given))
            shards, first, count = [], first + count, 0
    return parts


def is_labelled(source: ImageSource, classes: Sequence[str]) -> bool:
    """Whether the source's labels are about what the model tells apart: one of them at least is a class of it.

    The folders of images that nobody labelled have names, too.
    """
    return not set(source.classes).isdisjoint(classes)
