import gc
import os
import subprocess
import sys

import pytest

from image_classifier.process import available_cpus, limit_blas_threads, limit_thread_spinning, permanent_imports

MACHINE_CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, MACHINE_CPUS),
        ({"cpu.max": "max 100000\n"}, MACHINE_CPUS),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, min(2, MACHINE_CPUS)),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, MACHINE_CPUS),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_the_quota_of_the_container_limits_the_cpus(tmp_path, files, cpus):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert available_cpus(tmp_path) == cpus


@pytest.mark.parametrize(
    ("limit", "variable"), [(limit_thread_spinning, "GOMP_SPINCOUNT"), (limit_blas_threads, "OPENBLAS_NUM_THREADS")]
)
def test_a_limit_of_the_user_is_kept(monkeypatch, limit, variable):
    monkeypatch.setenv(variable, "7")
    limit()
    assert os.environ[variable] == "7"
    monkeypatch.delenv(variable)
    limit()
    assert os.environ[variable].isdigit()


def test_objects_of_the_block_are_exempt_from_garbage_collection():
    before = gc.get_freeze_count()
    try:
        with permanent_imports():
            assert not gc.isenabled()
            objects = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(objects)
    finally:
        gc.unfreeze()


def test_garbage_collection_is_enabled_again_after_an_exception():
    with pytest.raises(ZeroDivisionError), permanent_imports():
        _ = 1 / 0
    assert gc.isenabled()
    gc.unfreeze()


@pytest.mark.slow
def test_freed_large_blocks_are_returned_to_the_system():
    code = """
import sys, threading
import numpy as np
from image_classifier.process import return_large_blocks
if sys.argv[1] == "return":
    return_large_blocks()

def work():
    for _ in range(3):
        blocks = [np.ones(16 * 2**20, np.uint8) for _ in range(6)]
        kept.append(np.ones(1000))  # so that the end of the heap is in use
        del blocks

kept = []
for _ in range(6):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
[line] = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
print(int(line.split()[1]) // 1024)
"""

    def mebibytes(mode: str) -> int:
        command = [sys.executable, "-c", code, mode]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert mebibytes("return") < 60 < 100 < mebibytes("leave")


@pytest.mark.slow
def test_kept_large_blocks_cause_no_page_faults():
    code = """
import resource, sys
import numpy as np
from image_classifier.process import keep_large_blocks
if sys.argv[1] == "keep":
    keep_large_blocks()

def work():
    for size in (20, 24, 28):
        blocks = [np.ones(size * 2**20, np.uint8) for _ in range(3)]
        del blocks

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def faults(mode: str) -> int:
        command = [sys.executable, "-c", code, mode]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") * 10 < faults("leave")
