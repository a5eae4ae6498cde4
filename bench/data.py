"""Data preparation against a bare Pillow loop on the same parquet files, in the same run.

    python bench/data.py FOLDER_WITH_PARQUET_FILES [REPEATS]

The bare loop: processes forked beforehand (so their start costs it nothing), one a core, each taking row
groups in turn, `Image.open(...).convert("RGB")` and `numpy.asarray` of every image and nothing else: no
limits, no digest, no array kept. Ours: `prepare` into an empty cache, start of the processes and all checks
included. Prints both rates, their ratio and the peak memory of ours (resident, parent plus workers).
"""

import io
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

from image_classifier.datasets import prepare
from image_classifier.process import available_cpus
from image_classifier.settings import Settings


def decode_bare(task: tuple[str, int]) -> int:
    """Decode a row group; how many images it has."""
    path, group = task
    images = pq.ParquetFile(path).read_row_group(group, columns=["image"]).column("image").to_pylist()
    for image in images:
        np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB"))
    return len(images)


def time_bare(folder: Path, pool: Pool) -> tuple[int, float]:
    files = sorted(map(str, folder.glob("*.parquet")))
    tasks = [(file, group) for file in files for group in range(pq.ParquetFile(file).num_row_groups)]
    began = time.perf_counter()
    count = sum(pool.imap_unordered(decode_bare, tasks))
    return count, time.perf_counter() - began


class PeakMemory:
    """Samples the resident memory of this process and its children while the block runs."""

    def __enter__(self) -> "PeakMemory":
        self.all = self.private = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while not self._done.wait(0.2):
            resident = private = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    memory = process.memory_info()
                except psutil.NoSuchProcess:
                    continue
                resident += memory.rss
                private += memory.rss - memory.shared
            self.all, self.private = max(self.all, resident), max(self.private, private)


def time_ours(folder: Path) -> tuple[int, float, PeakMemory, float]:
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(data=str(folder), home=Path(home))
        with PeakMemory() as memory:
            began = time.perf_counter()
            dataset = prepare(settings)
            elapsed = time.perf_counter() - began
        began = time.perf_counter()
        prepare(settings)
        again = time.perf_counter() - began
        return len(dataset.train.labels) + len(dataset.test.labels), elapsed, memory, again


def main() -> None:
    folder, repeats = Path(sys.argv[1]), int((*sys.argv, "3")[2])
    bare_rates, our_rates = [], []
    for _ in range(repeats):
        with multiprocessing.get_context("fork").Pool(available_cpus()) as pool:
            count, seconds = time_bare(folder, pool)
        bare_rates.append(count / seconds)
        count, seconds, memory, again = time_ours(folder)
        our_rates.append(count / seconds)
        print(
            f"{count:,} images on {available_cpus()} cores: bare loop {bare_rates[-1]:,.0f} images/s, "
            f"ours {our_rates[-1]:,.0f} images/s, peak memory {memory.all / 2**20:,.0f} MiB "
            f"({memory.private / 2**20:,.0f} MiB private), second time {1000 * again:.0f} ms"
        )
    medians = statistics.median(our_rates) / statistics.median(bare_rates)
    best = max(our_rates) / max(bare_rates)
    print(f"ours to the bare loop, of {repeats} runs each: medians {medians:.2f}, best {best:.2f}")


if __name__ == "__main__":
    main()
