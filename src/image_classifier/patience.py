"""Ask again what is away for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def patiently(
    attempt: Callable[[], Found],
    away: type[Exception],
    *,
    wait: float,
    pause: float,
    on_wait: Callable[[Exception], None] = lambda _: None,
) -> Found:
    """What `attempt` gives; where it raises `away`, it is made again, `pause` seconds later, for `wait` seconds.

    `on_wait` is called with the first such error that is waited for. Raises the last one when the time is over, and
    any other error at once.
    """
    end = time.monotonic() + wait
    waiting = False
    while True:
        try:
            return attempt()
        except away as error:
            if time.monotonic() >= end:
                raise
            if not waiting:
                on_wait(error)
            waiting = True
            time.sleep(pause)
