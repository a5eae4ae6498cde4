"""Decode all images of a source into one file, on all cores."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from image_classifier.datasets.image_source import ImageSource, Shard
from image_classifier.datasets.shard_decoding import Decoded, decode_shard, extents_of
from image_classifier.errors import DataError
from image_classifier.progress import Progress

IN_PROCESS = 2**22
"""Up to so many bytes of data, starting worker processes costs more than they save."""
LARGEST_CHOSEN, SMALLEST_CHOSEN = 64, 8
_SAMPLED_SHARDS, _SAMPLED_ITEMS = 16, 256


def choose_size(source: ImageSource, max_pixels: int) -> int:
    """The side to decode to, from a sample: the side that all images have, else the median shorter side.

    At least 8 and at most 64 pixels.
    """
    step = max(1, len(source.shards) // _SAMPLED_SHARDS)
    sampled = source.shards[::step]
    most = _SAMPLED_ITEMS // len(sampled) + 1
    extents = [extent for shard in sampled for extent in extents_of(shard, most, max_pixels)]
    sides = [min(extent) for extent in extents] or [LARGEST_CHOSEN]
    return int(np.clip(np.median(sides), SMALLEST_CHOSEN, LARGEST_CHOSEN))


@contextmanager
def workers(size: int, processes: int) -> Iterator[Executor | None]:
    """Processes to decode `size` bytes with, which start up meanwhile; None where they would not pay.

    Raises DataError where one of them is killed.
    """
    if processes == 1 or size <= IN_PROCESS:
        yield None
        return
    # Not forked: the parent may hold threads of PyTorch, whose locks a child would inherit.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        try:
            pool.submit(os.getpid)
            yield pool
        except BrokenProcessPool:
            raise DataError(
                "a decoding process was killed, probably for lack of memory; lower max_pixels or give it more"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def decode_source(
    source: ImageSource, target: Path, size: int, max_pixels: int, pool: Executor | None
) -> Decoded:
    """Decode into the file `target`, uint8 [N, size, size, 3], which exists; rows that fail stay as they are.

    Raises DataError where a shard cannot be read.
    """
    ends = np.cumsum([shard.count for shard in source.shards]).tolist()
    total = ends[-1]
    hashes = np.zeros((total, 4), dtype=np.uint64)
    originals = np.zeros((total, 3), dtype=np.int32)
    errors: dict[int, str] = {}
    colour = False
    tasks = [
        (shard, target, end - shard.count, size, max_pixels)
        for shard, end in zip(source.shards, ends, strict=True)
        if shard.count
    ]
    with Progress("decode", total, "images") as progress:
        for (shard, _, first, *_), decoded in _run(tasks, pool):
            hashes[first : first + shard.count] = decoded.hashes
            errors |= {first + row: reason for row, reason in decoded.errors.items()}
            originals[first : first + shard.count] = decoded.originals
            colour = colour or decoded.colour
            progress.advance(shard.count)
    return Decoded(hashes, dict(sorted(errors.items())), colour, originals)


_Task = tuple[Shard, Path, int, int, int]


def _run(tasks: list[_Task], pool: Executor | None) -> Iterator[tuple[_Task, Decoded]]:
    if pool is None:
        for task in tasks:
            yield task, decode_shard(*task)
        return
    futures = {pool.submit(decode_shard, *task): task for task in tasks}
    for future in as_completed(futures):
        yield futures.pop(future), future.result()
