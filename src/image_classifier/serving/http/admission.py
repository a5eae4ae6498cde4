"""Admission control: limits on requests at work, on queued requests, and on the memory of request bodies."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from image_classifier.serving.http.error_responses import unavailable


class Admission:
    """A fixed number of slots for requests, and a bounded first-come, first-served queue for them."""

    def __init__(self, *, slots: int, queue: int, timeout: float, on_change: Callable[[int], None]) -> None:
        """`slots` requests run at a time, and up to `queue` more wait, each for at most `timeout` seconds.

        `on_change` gets the number of requests in flight, running or queued, whenever it changes.
        """
        self._free = slots
        self._limit = slots + queue
        self._timeout = timeout
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        self._in_flight = 0
        self._on_change = on_change

    @property
    def in_flight(self) -> int:
        """Number of requests that run or wait."""
        return self._in_flight

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot and hold it; raises RequestError (503) if the queue is full or the timeout passes."""
        granted = self._enter()
        try:
            if granted and not granted.wait(self._timeout) and not self._was_granted(granted):
                raise unavailable(
                    "overloaded",
                    f"the server is busy: the request waited {self._timeout:g} s in the queue; try again later",
                )
            try:
                yield
            finally:
                self._release()
        finally:
            with self._lock:
                self._in_flight -= 1
                self._on_change(self._in_flight)

    def _enter(self) -> threading.Event | None:
        """Take a free slot (None), or join the queue: the event is set when a slot is granted."""
        with self._lock:
            if self._in_flight >= self._limit:
                raise unavailable(
                    "overloaded",
                    f"the server is busy: {self._in_flight} requests are running or queued; try again later",
                )
            self._in_flight += 1
            self._on_change(self._in_flight)
            if self._free:
                self._free -= 1
                return None
            granted = threading.Event()
            self._queue.append(granted)
            return granted

    def _was_granted(self, granted: threading.Event) -> bool:
        """Leave the queue, unless the slot was granted between the timeout and this call."""
        with self._lock:
            if not granted.is_set():
                self._queue.remove(granted)
            return granted.is_set()

    def _release(self) -> None:
        # First come, first served: with a semaphore, a busy connection's next request would overtake the queue.
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._free += 1


class MemoryBudget:
    """Limit on the memory of all request bodies together, so that many large uploads do not end the process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes of all bodies in memory."""
        return self._used

    def acquire(self, size: int) -> None:
        """Reserve `size` bytes; raises RequestError (503) if that exceeds the limit."""
        with self._lock:
            if self._used + size > self._limit:
                raise unavailable("overloaded", "too many large requests at the same time; try again later")
            self._used += size

    def release(self, size: int) -> None:
        with self._lock:
            self._used -= size
