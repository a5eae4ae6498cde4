"""CPUs, threads and memory of the running process."""

import ctypes
import gc
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Options of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 4 * 2**20
_LARGEST_KEPT_BYTES = 32 * 2**20  # glibc ignores larger values on 64-bit systems


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Number of CPUs by affinity and by a container's quota (cgroup version 2, then 1), rounded up, at least 1."""
    return max(1, min(len(os.sched_getaffinity(0)), _quota(cgroup)))


def exit_with_parent() -> None:
    """End this process, which `multiprocessing` started, as soon as its parent dies."""
    import multiprocessing  # which a server does not need

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def limit_thread_spinning() -> None:
    """Limit how long PyTorch's OpenMP threads spin while they wait. Call it before PyTorch is imported.

    With the default, two busy processes on two cores train 20 times slower; without any spinning an idle machine trains
    at half the speed. This value keeps the full speed of an idle machine and three quarters of a shared one's.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")


def limit_blas_threads() -> None:
    """Let NumPy start no threads for linear algebra. Call it before NumPy is imported.

    OpenBLAS starts one thread for each CPU, which spin for some 10 ms while a server starts.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def return_large_blocks() -> None:
    """Return the memory of a large image to the system as soon as it is freed. Does nothing without glibc.

    Otherwise glibc keeps blocks of that size, in every thread. It still keeps blocks of common images, which is faster.
    """
    _mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def keep_large_blocks() -> None:
    """Keep freed memory between training steps, which all need the same amount. Does nothing without glibc.

    Clearing the pages again takes a sixth of a step.
    """
    _mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
    _mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def permanent_imports() -> Iterator[None]:
    """Exempt everything loaded in this block from garbage collection.

    The collector would go through it many times during the imports, and again in the middle of requests.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _mallopt(option: int, value: int) -> None:
    try:
        ctypes.CDLL(None).mallopt(option, value)
    except AttributeError:
        return


def _quota(cgroup: Path) -> int:
    quota, period = "max", "1"
    if (cgroup / "cpu.max").exists():
        quota, period = (cgroup / "cpu.max").read_text().split()
    elif (cgroup / "cpu/cpu.cfs_quota_us").exists():
        quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
        period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
    if quota == "max" or int(quota) <= 0:
        return os.cpu_count() or 1
    return math.ceil(int(quota) / int(period))
