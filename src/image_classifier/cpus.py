"""How many CPUs this process may use: what a container's quota allows, not what the machine has."""

import math
import os
from pathlib import Path


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
