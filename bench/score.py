"""Throughput of `image-classifier score`, compared with a bare loop over the same parquet files.

    python bench/score.py FOLDER_WITH_PARQUET_FILES PACKAGE [--repeats 3] [--times 1] [--ray]

The bare loop uses one process per CPU, forked and with a loaded session beforehand, so that its start is not counted.
Each process takes row groups in turn, decodes the images and runs the model on batches of 256; it keeps no results and
checks nothing. It runs once with a bare Pillow decoder (`Image.open(...).convert("RGB")`; the images must have the
model's size) and once with ours. Ours is the whole command, from its start to its summary. `--times` repeats the input
files; `--ray` adds Ray Data. All run alternately. Prints the rates, the ratios, and the peak memory of all processes of
ours. On a shared machine the rates mean little, but the CPU time per image is still meaningful.
"""

import argparse
import io
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from data import PeakMemory
from environments import PEERS, make_environment
from image_classifier.images.decoder import decode
from image_classifier.package.model import Graph
from image_classifier.package.package import Package
from image_classifier.process import available_cpus
from image_classifier.settings import Settings

BATCH = 256
Decoder = Callable[[bytes, int], NDArray[np.uint8]]


def decode_with_pillow(data: bytes, _: int) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def decode_with_ours(data: bytes, size: int) -> NDArray[np.uint8]:
    return decode(data, size, Settings.max_pixels)


DECODERS: dict[str, Decoder] = {"Pillow": decode_with_pillow, "our decoder": decode_with_ours}


@cache
def load_session(package: Path) -> tuple[Graph, int]:
    """The session of this process, and the model's image size."""
    opened = Package.read(package)
    return Graph(opened.model_file, threads=1), opened.image_size


def score_bare(task: tuple[Path, int, str, Path]) -> int:
    """Score a row group; returns its number of images."""
    path, group, decoder, package = task
    graph, size = load_session(package)
    images = pq.ParquetFile(path).read_row_group(group, columns=["image"]).column("image").to_pylist()
    for start in range(0, len(images), BATCH):
        batch = [DECODERS[decoder](image["bytes"], size) for image in images[start : start + BATCH]]
        graph.probabilities(np.stack(batch))
    return len(images)


class Times(NamedTuple):
    """The time of one run."""

    seconds: float
    """Wall-clock time."""
    cpu: float
    """CPU time in seconds, of all processes."""


@contextmanager
def measure_children() -> Iterator[list[Times]]:
    """Append the times of the processes that the block starts and waits for to the yielded list."""
    times: list[Times] = []
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    yield times
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    times.append(Times(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


def time_bare(folder: Path, package: Path, decoder: str) -> Times:
    tasks = [
        (file, group, decoder, package)
        for file in sorted(folder.iterdir())
        for group in range(pq.read_metadata(file).num_row_groups)
    ]
    # Each process takes some of these tasks and loads its session.
    warm_up = tasks[: 4 * available_cpus()]
    with measure_children() as times, multiprocessing.get_context("fork").Pool(available_cpus()) as pool:
        warm = sum(pool.map(score_bare, warm_up, chunksize=1))
        started = time.perf_counter()
        count = sum(pool.imap_unordered(score_bare, tasks))
        seconds = time.perf_counter() - started
        pool.close()
        pool.join()
    return Times(seconds, times[0].cpu * count / (count + warm))


def time_command(command: Sequence[str | Path]) -> Times:
    with measure_children() as times:
        subprocess.run(command, check=True, stdout=sys.stderr)
    return times[0]


def time_ours(folder: Path, package: Path) -> tuple[Times, PeakMemory]:
    with tempfile.TemporaryDirectory() as home, PeakMemory() as memory:
        score = (sys.executable, "-m", "image_classifier.cli", "score", folder, "--model", package)
        return time_command((*score, "--to", f"{home}/scores", "--home", home)), memory


def time_ray(folder: Path, package: Path) -> Times:
    python = make_environment("ray")
    with tempfile.TemporaryDirectory() as home:
        score = (python, PEERS / "ray_score.py", folder, package)
        return time_command((*score, f"{home}/scores", str(available_cpus())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--ray", action="store_true")
    arguments = parser.parse_args()
    all_times: dict[str, list[Times]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(arguments.times):
            for file in arguments.data.glob("*.parquet"):
                (folder / f"{file.stem}-{number}.parquet").symlink_to(file.absolute())
        count = sum(pq.read_metadata(file).num_rows for file in folder.iterdir())
        for _ in range(arguments.repeats):
            ours, memory = time_ours(folder, arguments.package)
            run = {"ours": ours, **{name: time_bare(folder, arguments.package, name) for name in DECODERS}}
            if arguments.ray:
                run["Ray Data"] = time_ray(folder, arguments.package)
            for name, times in run.items():
                all_times.setdefault(name, []).append(times)
            rates = ", ".join(
                f"{name} {count / times.seconds:,.0f} images/s ({1e3 * times.cpu / count:.3f} ms of CPU time per image)"
                for name, times in run.items()
            )
            print(f"{count:,} images on {available_cpus()} CPUs: {rates}")
            print(
                f"peak memory of ours: {memory.all / 2**20:,.0f} MiB ({memory.private / 2**20:,.0f} MiB private)",
                flush=True,
            )
    seconds, cpu = (statistics.median(column) for column in zip(*all_times.pop("ours"), strict=True))
    for name, column in all_times.items():
        rate = statistics.median(times.seconds for times in column) / seconds
        by_cpu = statistics.median(times.cpu for times in column) / cpu
        print(f"ours relative to {name}: {rate:.3f} of the throughput, {by_cpu:.3f} of the images per CPU second")


if __name__ == "__main__":
    main()
