"""Throughput of data preparation, compared with a bare Pillow loop on the same parquet files.

    python bench/data.py FOLDER_WITH_PARQUET_FILES [REPEATS]

The bare loop uses one process per CPU, forked beforehand, so that its start is not counted. Each process takes row
groups in turn and runs `Image.open(...).convert("RGB")` and `numpy.asarray` on every image, without limits or digest,
and keeps no array. Ours is `prepare` into an empty cache, including the start of the processes and all checks. Prints
both rates, their ratio, and the peak resident memory of ours (parent and workers).
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

from image_classifier.datasets import DataRequest, prepare
from image_classifier.process import available_cpus
from image_classifier.settings import Settings, pick


def decode_bare(task: tuple[str, int]) -> int:
    """Decode a row group; returns its number of images."""
    path, group = task
    images = pq.ParquetFile(path).read_row_group(group, columns=["image"]).column("image").to_pylist()
    for image in images:
        np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB"))
    return len(images)


def time_bare(folder: Path, pool: Pool) -> tuple[int, float]:
    files = sorted(map(str, folder.glob("*.parquet")))
    tasks = [(file, group) for file in files for group in range(pq.ParquetFile(file).num_row_groups)]
    started = time.perf_counter()
    count = sum(pool.imap_unordered(decode_bare, tasks))
    return count, time.perf_counter() - started


class PeakMemory:
    """Samples the resident memory of this process and its children, in bytes, while the block runs."""

    def __enter__(self) -> "PeakMemory":
        self.all = self.private = 0
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self._thread.join()

    def _sample(self) -> None:
        parent = psutil.Process()
        while not self._finished.wait(0.2):
            resident = private = 0
            for process in (parent, *parent.children(recursive=True)):
                try:
                    memory = process.memory_info()
                except psutil.NoSuchProcess:
                    continue
                resident += memory.rss
                private += memory.rss - memory.shared
            self.all, self.private = max(self.all, resident), max(self.private, private)


def time_ours(folder: Path) -> tuple[int, float, PeakMemory, float]:
    with tempfile.TemporaryDirectory() as home:
        request = pick(Settings(data=str(folder), home=Path(home)), DataRequest)
        with PeakMemory() as memory:
            started = time.perf_counter()
            dataset = prepare(request)
            seconds = time.perf_counter() - started
        started = time.perf_counter()
        prepare(request)
        cached_seconds = time.perf_counter() - started
        return len(dataset.train.labels) + len(dataset.test.labels), seconds, memory, cached_seconds


def main() -> None:
    folder, repeats = Path(sys.argv[1]), int((*sys.argv, "3")[2])
    bare_rates, our_rates = [], []
    for _ in range(repeats):
        with multiprocessing.get_context("fork").Pool(available_cpus()) as pool:
            count, seconds = time_bare(folder, pool)
        bare_rates.append(count / seconds)
        count, seconds, memory, cached_seconds = time_ours(folder)
        our_rates.append(count / seconds)
        print(
            f"{count:,} images on {available_cpus()} CPUs: bare loop {bare_rates[-1]:,.0f} images/s, "
            f"ours {our_rates[-1]:,.0f} images/s, peak memory {memory.all / 2**20:,.0f} MiB "
            f"({memory.private / 2**20:,.0f} MiB private), from the cache {1000 * cached_seconds:.0f} ms"
        )
    medians = statistics.median(our_rates) / statistics.median(bare_rates)
    best = max(our_rates) / max(bare_rates)
    print(f"ours relative to the bare loop, {repeats} runs each: medians {medians:.2f}, best {best:.2f}")


if __name__ == "__main__":
    main()
