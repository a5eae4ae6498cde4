"""Connections spread evenly over the workers.

All workers accept from one socket, and whichever wakes first takes the connection. A proxy opens its connections at
once and keeps them: without this, one worker may get all of them, and half of a two-core machine stands idle.
"""

import mmap
import struct
import time

_SLOTS = 64
_SLOT = struct.Struct("qd")
_STALE_SECONDS = 2.0
"""A worker's loop says something every second; one that stands still must not keep the others from accepting."""


class Balance:
    """How many connections each worker has, in memory that processes forked later share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOTS * _SLOT.size)

    def say(self, worker: int, connections: int) -> None:
        """The worker of that number has so many connections now."""
        _SLOT.pack_into(self._memory, worker % _SLOTS * _SLOT.size, connections, time.monotonic())

    def has_share(self, worker: int, connections: int) -> bool:
        """Whether that worker, which has so many connections, should leave new ones to another."""
        self.say(worker, connections)
        now = time.monotonic()
        return any(
            others < connections and now - said < _STALE_SECONDS
            for others, said in _SLOT.iter_unpack(self._memory)
        )

    def forget(self, worker: int) -> None:
        """The worker has ended."""
        _SLOT.pack_into(self._memory, worker % _SLOTS * _SLOT.size, 0, -_STALE_SECONDS)
