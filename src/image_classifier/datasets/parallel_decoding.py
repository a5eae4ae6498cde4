"""Decode all images of a source into one file, on all CPUs."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from image_classifier.datasets.image_source import ImageSource, Shard
from image_classifier.datasets.shard_decoding import DecodedImages, decode_shard, sample_dimensions
from image_classifier.errors import DataError
from image_classifier.images import CROP, PAD
from image_classifier.progress import Progress

MAX_IN_PROCESS_BYTES = 2**22
"""For less data, starting worker processes takes longer than they save."""
MIN_AUTO_SIZE, MAX_SMALL_IMAGE_SIZE = 8, 64
_MIN_PHOTO_SIDE = 128
"""Smaller images gain little from a backbone, which is trained with photos of 224 pixels and more."""
_SAMPLED_SHARDS, _SAMPLED_IMAGES = 16, 256


def choose_image_size(source: ImageSource, max_pixels: int, photo_size: int = 0, framing: str = CROP) -> int:
    """Choose the side to resize to from the median of the sides of a sample of the images.

    These are the shorter sides, with padding the longer ones. From a median of 128 pixels on it is `photo_size`, unless
    that is 0; else the median, 8 to 64 pixels.
    """
    step = max(1, len(source.shards) // _SAMPLED_SHARDS)
    sampled = source.shards[::step]
    count = _SAMPLED_IMAGES // len(sampled) + 1
    dimensions = [each for shard in sampled for each in sample_dimensions(shard, count, max_pixels)]
    sides = [max(each) if framing == PAD else min(each) for each in dimensions] or [MAX_SMALL_IMAGE_SIZE]
    if photo_size and np.median(sides) >= _MIN_PHOTO_SIDE:
        return photo_size
    return int(np.clip(np.median(sides), MIN_AUTO_SIZE, MAX_SMALL_IMAGE_SIZE))


@contextmanager
def worker_pool(data_bytes: int, processes: int) -> Iterator[Executor | None]:
    """Yield a pool of decoding processes, or None for little data. Raises DataError if a process is killed."""
    if processes == 1 or data_bytes <= MAX_IN_PROCESS_BYTES:
        yield None
        return
    # Not forked: the parent may run PyTorch threads, whose locks a child would inherit.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        try:
            with _deferred_interrupt():
                pool.submit(os.getpid)
            yield pool
        except BrokenProcessPool:
            raise DataError(
                "a decoding process was killed, probably because memory ran out; lower max_pixels or use more memory"
            ) from None
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _deferred_interrupt() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block; processes that are started in it never get it.

    A terminal sends it to all processes, which would print where they were; their parent ends them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    # Inherited by the processes, as a handler is not. It defers nothing here if another thread gets the signal.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in received:
            signal.raise_signal(number)


def decode_source(
    source: ImageSource, target: Path, size: int, max_pixels: int, pool: Executor | None, framing: str = CROP
) -> DecodedImages:
    """Decode all images into the existing file `target`, uint8 [N, size, size, 3]; those that fail are all zeros.

    Raises DataError if a shard cannot be read.
    """
    ends = np.cumsum([shard.count for shard in source.shards]).tolist()
    total = ends[-1]
    hashes = np.zeros((total, 4), dtype=np.uint64)
    originals = np.zeros((total, 3), dtype=np.int32)
    blank = np.zeros(total, dtype=np.bool_)
    errors: dict[int, str] = {}
    color = False
    tasks = [
        (shard, target, end - shard.count, size, max_pixels, framing)
        for shard, end in zip(source.shards, ends, strict=True)
        if shard.count
    ]
    with Progress("decode", total, "images") as progress:
        for (shard, _, first, *_), decoded in _run(tasks, pool):
            hashes[first : first + shard.count] = decoded.hashes
            errors |= {first + row: reason for row, reason in decoded.errors.items()}
            originals[first : first + shard.count] = decoded.originals
            blank[first : first + shard.count] = decoded.blank
            color = color or decoded.color
            progress.advance(shard.count)
    return DecodedImages(hashes, dict(sorted(errors.items())), color, originals, blank)


_Task = tuple[Shard, Path, int, int, int, str]
"""Arguments of `decode_shard`."""


def _run(tasks: list[_Task], pool: Executor | None) -> Iterator[tuple[_Task, DecodedImages]]:
    if pool is None:
        for task in tasks:
            yield task, decode_shard(*task)
        return
    with _deferred_interrupt():
        futures = {pool.submit(decode_shard, *task): task for task in tasks}
    for future in as_completed(futures):
        yield futures.pop(future), future.result()
