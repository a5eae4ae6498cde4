"""The memory of a process that runs for long."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 4 * 2**20
_LARGEST_KEPT_BYTES = 32 * 2**20
"""More than glibc accepts on 64-bit systems is as if nothing was said."""


def give_back_large_blocks() -> None:
    """Let the system have the memory of a large image as soon as it is freed.

    glibc would learn from the first one that blocks of its size come often, and keep them: each thread its own. The
    smaller ones of common images stay with it, which is faster. Where there is no glibc nothing is done.
    """
    _mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def keep_large_blocks() -> None:
    """Do not give memory back to the system between the steps of a training, which all need the same.

    The system would clear each page again, for a sixth of the time. Where there is no glibc nothing is done.
    """
    _mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
    _mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _mallopt(option: int, value: int) -> None:
    try:
        ctypes.CDLL(None).mallopt(option, value)
    except AttributeError:
        return


@contextmanager
def lasting() -> Iterator[None]:
    """What is loaded in this block stays: the garbage collector does not look at it, neither now nor later.

    It would, many times while modules are loaded, and again in the middle of a request.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
