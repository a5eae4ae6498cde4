"""CPUs, threads and memory of the running process."""

import ctypes
import gc
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs by affinity and by the cgroup's quota (version 2, then 1), rounded up, at least one."""
    return max(1, min(len(os.sched_getaffinity(0)), _quota(cgroup)))


def share_cpus() -> None:
    """Let PyTorch's threads wait for each other politely. To be called before PyTorch is loaded.

    By default they spin for so long that two busy neighbours on two cores make training 20 times slower;
    without any spinning a quiet machine trains at half the speed. This many turns keep the full speed of a
    quiet machine and three quarters of what a shared one has to give.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")


def need_no_blas() -> None:
    """Let NumPy start no threads for linear algebra. To be called before NumPy is loaded.

    OpenBLAS starts one for each CPU, which spin for some hundredths of a second: of a server's start on one CPU.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


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
