"""Admission: who is answered now, who waits, and who is told at once to come back later."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from image_classifier.serving.errors import unavailable


class Admission:
    """A bounded number of requests at work, a bounded number that wait for their turn, and no more."""

    def __init__(self, *, places: int, queue: int, patience: float, report: Callable[[int], None]) -> None:
        """`places` requests work at a time, `queue` more wait, each for at most `patience` seconds.

        `report` is told how many are inside, at work or waiting, whenever that changes.
        """
        self._free = threading.Semaphore(places)
        self._most = places + queue
        self._patience = patience
        self._lock = threading.Lock()
        self._inside = 0
        self._report = report

    @property
    def inside(self) -> int:
        """Requests at work or waiting."""
        return self._inside

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a place and hold it; raises RequestError (503) where there is none to be had."""
        with self._lock:
            if self._inside >= self._most:
                raise unavailable("overloaded", f"{self._inside} requests are before this one; try again")
            self._inside += 1
            self._report(self._inside)
        try:
            if not self._free.acquire(timeout=self._patience):
                raise unavailable("overloaded", f"no turn came within {self._patience:g} s; try again")
            try:
                yield
            finally:
                self._free.release()
        finally:
            with self._lock:
                self._inside -= 1
                self._report(self._inside)


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
