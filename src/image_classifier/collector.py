"""The garbage collector of a process that runs for long."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """What is loaded in this block stays: the collector does not look at it, neither now nor later.

    It would, many times while modules are loaded, and again in the middle of a request.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
