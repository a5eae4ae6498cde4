import gc
import subprocess
import sys

import pytest

from image_classifier.process import lasting


def test_what_is_made_in_the_block_is_not_looked_at_again():
    before = gc.get_freeze_count()
    try:
        with lasting():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(kept)
    finally:
        gc.unfreeze()


def test_the_collector_goes_on_after_a_failure():
    with pytest.raises(ZeroDivisionError), lasting():
        _ = 1 / 0
    assert gc.isenabled()
    gc.unfreeze()


def test_large_blocks_go_back_to_the_system_when_they_are_freed():
    code = """
import sys, threading
import numpy as np
from image_classifier.process import give_back_large_blocks
if sys.argv[1] == "give":
    give_back_large_blocks()

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

    def mebibytes(way: str) -> int:
        command = [sys.executable, "-c", code, way]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert mebibytes("give") < 60 < 100 < mebibytes("keep")


def test_large_blocks_that_are_kept_are_not_cleared_again():
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
