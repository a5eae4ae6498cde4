"""Histograms of the features of images and predictions, and a sample of embeddings, kept by all workers together."""

import fcntl
import mmap
import tempfile
import threading
import uuid
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from image_classifier.monitoring import FeatureCounts, ProjectedEmbeddings
from image_classifier.package import MAX_EMBEDDINGS

_IMAGES, _WINDOW_START, _WINDOWS, _LAST_IMAGES, _EMBEDDED, _EMBEDDED_START, _LAST_EMBEDDED = range(7)
_HEADER_WORDS = 7


class CountsSnapshot(NamedTuple):
    """The counts at one moment."""

    images: int  # since the server's start
    counts: FeatureCounts  # int64 [B], since the server's start
    windows: int  # number of full windows
    in_window: int  # images in the window that is being filled
    last: FeatureCounts  # int64 [B] of the newest full window; all 0 before the first
    last_images: int
    embedded: int  # embeddings in the sample since the server's start
    embeddings: ProjectedEmbeddings  # float32 [N, D], the newest of them, oldest first
    last_embeddings: ProjectedEmbeddings  # float32 [N, D] of the newest full window


class SharedCounts:
    """Counts in memory that processes forked later share. Counts of a worker remain after it ends."""

    def __init__(self, bins: int, window: int, dimensions: int = 0) -> None:
        """Counts for `bins` bins, and embeddings of `dimensions` numbers; a window is full with `window` images.

        Of the embeddings those of every image are kept, or of a part of them, evenly spaced, in a large window.
        """
        self._window = window
        self._stride = -(-window // MAX_EMBEDDINGS)
        size = MAX_EMBEDDINGS * dimensions
        self._embedding_memory = mmap.mmap(-1, max(1, 4 * 2 * size))
        numbers = np.frombuffer(self._embedding_memory, dtype=np.float32, count=2 * size)
        self._newest, self._last_embeddings = numbers.reshape(2, MAX_EMBEDDINGS, dimensions)
        self._memory = mmap.mmap(-1, 8 * (_HEADER_WORDS + 3 * bins))
        words = np.frombuffer(self._memory, dtype=np.int64)
        self._total, self._start, self._last = words[_HEADER_WORDS:].reshape(3, bins)
        # Incrementing a memoryview's item is as fast as a list's; NumPy takes ten times as long for a single item.
        self._header = memoryview(self._memory).cast("q")
        self._bins = self._header[_HEADER_WORDS:]
        self._lock = _ProcessLock()
        self.instance = uuid.uuid4().hex
        """Distinguishes these counts from those of another server, and of this one after a restart."""

    def add(self, images: int, bins: Iterable[int], embedding: ProjectedEmbeddings | None = None) -> None:
        """Count `images` images, which fall into these bins; `embedding`, float32 [D], is that of the one image."""
        header = self._header
        with self._lock:
            for index in bins:
                self._bins[index] += 1
            if embedding is not None and header[_IMAGES] % self._stride == 0:
                self._newest[header[_EMBEDDED] % MAX_EMBEDDINGS] = embedding
                header[_EMBEDDED] += 1
            header[_IMAGES] += images
            in_window = header[_IMAGES] - header[_WINDOW_START]
            if in_window >= self._window:
                np.subtract(self._total, self._start, out=self._last)
                self._start[:] = self._total
                header[_WINDOW_START] = header[_IMAGES]
                header[_LAST_IMAGES] = in_window
                embeddings = self._embeddings(header[_EMBEDDED] - header[_EMBEDDED_START])
                self._last_embeddings[: len(embeddings)] = embeddings
                header[_LAST_EMBEDDED] = len(embeddings)
                header[_EMBEDDED_START] = header[_EMBEDDED]
                header[_WINDOWS] += 1

    @property
    def windows(self) -> int:
        """Number of full windows."""
        return self._header[_WINDOWS]

    def snapshot(self) -> CountsSnapshot:
        """The counts of all workers."""
        with self._lock:
            images, start, windows, last_images, embedded, _, last_embedded = self._header[:_HEADER_WORDS]
            return CountsSnapshot(
                images,
                self._total.copy(),
                windows,
                images - start,
                self._last.copy(),
                last_images,
                embedded,
                self._embeddings(embedded),
                self._last_embeddings[:last_embedded].copy(),
            )

    def _embeddings(self, count: int) -> ProjectedEmbeddings:
        """The newest embeddings, up to `count` and as many as are kept, oldest first; call it with the lock."""
        end = self._header[_EMBEDDED]
        newest: ProjectedEmbeddings = self._newest[np.arange(end - min(count, MAX_EMBEDDINGS), end) % MAX_EMBEDDINGS]
        return newest


class _ProcessLock:
    """A lock between the threads of all workers.

    The kernel releases the file's lock if a worker is killed, which multiprocessing's locks do not; it does not
    distinguish threads, hence the second lock.
    """

    def __init__(self) -> None:
        self._threads = threading.Lock()
        self._processes = tempfile.TemporaryFile()  # noqa: SIM115 (open for the lifetime of the lock)

    def __enter__(self) -> None:
        self._threads.acquire()
        fcntl.lockf(self._processes, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._processes, fcntl.LOCK_UN)
        self._threads.release()
