"""Progress of long work on stderr: a bar with the remaining time on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

PLAIN_LINE_SECONDS = 10.0


class Progress:
    """Counts finished work. A context manager; call `advance` as work gets done."""

    def __init__(
        self,
        title: str,
        total: float | None,
        unit: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`total` is None if it is unknown; `unit` is a word such as "images" or "s"."""
        self._title, self._total, self._unit, self._clock = title, total, unit, clock
        self._stream = stream or sys.stderr
        self._done = 0.0
        self._started = self._last_line = clock()
        self._bar: tqdm[Any] | None = None
        if self._stream.isatty():
            self._bar = tqdm(total=total, desc=title, unit=f" {unit}", unit_scale=True, file=self._stream, leave=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, amount: float, note: str = "") -> None:
        """Add `amount` finished work; `note` is a short text such as the current loss."""
        self._done += amount
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
            return
        now = self._clock()
        if now - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = now
            print(self._line(now, note), file=self._stream, flush=True)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Hide the bar within the block, so that lines can be printed."""
        with tqdm.external_write_mode(file=sys.stdout):
            yield

    def _line(self, now: float, note: str) -> str:
        line = f"{self._title}: {self._done:,.0f} {self._unit}"
        if self._total:
            elapsed = now - self._started
            # More than the total can be done: a total in seconds is exceeded if the last piece takes longer.
            left = elapsed * max(0.0, self._total - self._done) / self._done if self._done else float("nan")
            line = f"{self._title}: {self._done:,.0f} of {self._total:,.0f} {self._unit}, {left:.0f} s left"
        return f"{line}, {note}" if note else line
