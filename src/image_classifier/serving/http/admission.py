"""Admission: who is answered now, who waits, and who is told at once to come back later."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from image_classifier.serving.http.error_responses import unavailable


class Admission:
    """A bounded number of requests at work, a bounded number that wait for their turn, and no more."""

    def __init__(self, *, places: int, queue: int, patience: float, report: Callable[[int], None]) -> None:
        """`places` requests work at a time, `queue` more wait, each for at most `patience` seconds.

        `report` is told how many are inside, at work or waiting, whenever that changes.
        """
        self._free = places
        self._most = places + queue
        self._patience = patience
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._inside = 0
        self._report = report

    @property
    def inside(self) -> int:
        """Requests at work or waiting."""
        return self._inside

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a place and hold it, who came first first; raises RequestError (503) where none is to be had."""
        called = self._enter()
        try:
            if called and not called.wait(self._patience) and not self._is_called_after_all(called):
                raise unavailable("overloaded", f"no turn came within {self._patience:g} s; try again")
            try:
                yield
            finally:
                self._pass_on()
        finally:
            with self._lock:
                self._inside -= 1
                self._report(self._inside)

    def _enter(self) -> threading.Event | None:
        """Take a free place, or stand in the queue: the event is set when a place is one's own."""
        with self._lock:
            if self._inside >= self._most:
                raise unavailable("overloaded", f"{self._inside} requests are before this one; try again")
            self._inside += 1
            self._report(self._inside)
            if self._free:
                self._free -= 1
                return None
            called = threading.Event()
            self._waiting.append(called)
            return called

    def _is_called_after_all(self, called: threading.Event) -> bool:
        """Leave the queue, unless the place was given just now."""
        with self._lock:
            if not called.is_set():
                self._waiting.remove(called)
            return called.is_set()

    def _pass_on(self) -> None:
        # To who waits, not to whom is quickest: a semaphore lets a busy connection's next request overtake the queue.
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class MemoryMeter:
    """The bytes of all request bodies that are in memory: many large uploads at once must not end the process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._held = 0

    @property
    def held(self) -> int:
        return self._held

    def take(self, size: int) -> None:
        """Raises RequestError (503) where that would be more than all bodies together may hold."""
        with self._lock:
            if self._held + size > self._most:
                raise unavailable("overloaded", "too many large requests at once; try again")
            self._held += size

    def give_back(self, size: int) -> None:
        with self._lock:
            self._held -= size
