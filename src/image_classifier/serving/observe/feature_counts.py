"""What the images and answers of a server looked like, counted by all its workers together."""

import fcntl
import mmap
import tempfile
import threading
import uuid
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from image_classifier.monitoring import FeatureCounts

_IMAGES, _WINDOW_START, _WINDOWS, _LAST_IMAGES = range(4)
_HEAD = 4


class ObservedCounts(NamedTuple):
    """The counts at one moment."""

    images: int
    """Since the server's start."""
    counts: FeatureCounts
    """int64 [B], since the server's start."""
    windows: int
    """How many windows were full."""
    in_window: int
    """Images of the window that is being filled."""
    last: FeatureCounts
    """int64 [B] of the newest full window; all 0 before the first."""
    last_images: int


class Observations:
    """Counts in memory that processes forked later share. A worker that ends leaves what it has counted."""

    def __init__(self, bins: int, window: int) -> None:
        """Counts of so many bins; a window is full with `window` images."""
        self._window = window
        self._memory = mmap.mmap(-1, 8 * (_HEAD + 3 * bins))
        numbers = np.frombuffer(self._memory, dtype=np.int64)
        self._total, self._start, self._last = numbers[_HEAD:].reshape(3, bins)
        # To add one here is as quick as to a list's item; NumPy takes ten times as long for a single number.
        self._head = memoryview(self._memory).cast("q")
        self._places = self._head[_HEAD:]
        self._alone = _Alone()
        self.instance = uuid.uuid4().hex
        """Tells these counts from those of another server, or of this one after a restart."""

    def add(self, images: int, places: Iterable[int]) -> None:
        """Count so many images, which fell into these bins."""
        head = self._head
        with self._alone:
            for place in places:
                self._places[place] += 1
            head[_IMAGES] += images
            in_window = head[_IMAGES] - head[_WINDOW_START]
            if in_window >= self._window:
                np.subtract(self._total, self._start, out=self._last)
                self._start[:] = self._total
                head[_WINDOW_START] = head[_IMAGES]
                head[_LAST_IMAGES] = in_window
                head[_WINDOWS] += 1

    @property
    def windows(self) -> int:
        """How many windows were full."""
        return self._head[_WINDOWS]

    def seen(self) -> ObservedCounts:
        """The counts of all workers."""
        with self._alone:
            images, start, windows, last_images = self._head[:_HEAD]
            return ObservedCounts(
                images, self._total.copy(), windows, images - start, self._last.copy(), last_images
            )


class _Alone:
    """Meanwhile no other thread and no other worker counts.

    The system gives the file's lock back where a worker is killed; it does not tell threads apart.
    """

    def __init__(self) -> None:
        self._threads = threading.Lock()
        self._processes = tempfile.TemporaryFile()  # noqa: SIM115 (as long as there is something to count)

    def __enter__(self) -> None:
        self._threads.acquire()
        fcntl.lockf(self._processes, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._processes, fcntl.LOCK_UN)
        self._threads.release()
