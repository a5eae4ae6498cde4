"""`image-classifier score` against a bare loop over the same parquet files, in turn in the same run.

    python bench/score.py FOLDER_WITH_PARQUET_FILES PACKAGE [--repeats 3] [--times 1] [--ray]

The bare loop: as many processes, forked beforehand and with their sessions loaded, so that their start costs it
nothing; each takes row groups in turn, decodes the images, and asks the model about 256 at a time. It keeps no answer,
checks nothing, and catches nothing. It decodes once by Pillow alone (`Image.open(...).convert("RGB")`: the images must
have the model's size) and once by our decoder. Ours is the whole command, from its start to its summary. `--times`
scores the files so many times over; `--ray` lets Ray Data do the same, too. Prints the rates, ours to each other one,
and the peak memory of ours (all its processes). Where others use the machine, the rates say little, and the seconds of
CPU for an image still tell.
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
from image_classifier.package.package import Graph, Package
from image_classifier.process import available_cpus
from image_classifier.settings import Settings

BATCH = 256
Decoder = Callable[[bytes, int], NDArray[np.uint8]]


def by_pillow(data: bytes, _: int) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def by_ours(data: bytes, size: int) -> NDArray[np.uint8]:
    return decode(data, size, Settings.max_pixels)


DECODERS: dict[str, Decoder] = {"Pillow": by_pillow, "our decoder": by_ours}


@cache
def loaded(package: Path) -> tuple[Graph, int]:
    """The session of this process, and the side of the images that it takes."""
    read = Package.read(package)
    return Graph(read.model_file, threads=1), read.image_size


def score_bare(task: tuple[Path, int, str, Path]) -> int:
    """Score a row group; how many images it has."""
    path, group, decoder, package = task
    graph, size = loaded(package)
    images = pq.ParquetFile(path).read_row_group(group, columns=["image"]).column("image").to_pylist()
    for start in range(0, len(images), BATCH):
        batch = [DECODERS[decoder](image["bytes"], size) for image in images[start : start + BATCH]]
        graph.probabilities(np.stack(batch))
    return len(images)


class Spent(NamedTuple):
    """What a way of scoring took."""

    seconds: float
    """From its start to its end."""
    cpu: float
    """Seconds of CPU, in all its processes."""


@contextmanager
def spent() -> Iterator[list[Spent]]:
    """Puts what the processes that the block starts and waits for took into the list."""
    found: list[Spent] = []
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    yield found
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    found.append(Spent(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


def of_bare(folder: Path, package: Path, decoder: str) -> Spent:
    tasks = [
        (file, group, decoder, package)
        for file in sorted(folder.iterdir())
        for group in range(pq.read_metadata(file).num_row_groups)
    ]
    # Each process takes some of these and loads its session.
    first = tasks[: 4 * available_cpus()]
    with spent() as found, multiprocessing.get_context("fork").Pool(available_cpus()) as pool:
        warm = sum(pool.map(score_bare, first, chunksize=1))
        began = time.perf_counter()
        count = sum(pool.imap_unordered(score_bare, tasks))
        seconds = time.perf_counter() - began
        pool.close()
        pool.join()
    return Spent(seconds, found[0].cpu * count / (count + warm))


def of_command(command: Sequence[str | Path]) -> Spent:
    with spent() as found:
        subprocess.run(command, check=True, stdout=sys.stderr)
    return found[0]


def of_ours(folder: Path, package: Path) -> tuple[Spent, PeakMemory]:
    with tempfile.TemporaryDirectory() as home, PeakMemory() as memory:
        score = (sys.executable, "-m", "image_classifier.cli", "score", folder, "--model", package)
        return of_command((*score, "--to", f"{home}/scores", "--home", home)), memory


def of_ray(folder: Path, package: Path) -> Spent:
    python = make_environment("ray")
    with tempfile.TemporaryDirectory() as home:
        score = (python, PEERS / "ray_score.py", folder, package)
        return of_command((*score, f"{home}/scores", str(available_cpus())))


def main() -> None:
    parser = argparse.ArgumentParser(description="Batch scoring against a bare loop.")
    parser.add_argument("data", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--ray", action="store_true")
    given = parser.parse_args()
    all_spent: dict[str, list[Spent]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(given.times):
            for file in given.data.glob("*.parquet"):
                (folder / f"{file.stem}-{number}.parquet").symlink_to(file.absolute())
        count = sum(pq.read_metadata(file).num_rows for file in folder.iterdir())
        for _ in range(given.repeats):
            ours, memory = of_ours(folder, given.package)
            now = {"ours": ours, **{name: of_bare(folder, given.package, name) for name in DECODERS}}
            if given.ray:
                now["Ray Data"] = of_ray(folder, given.package)
            for name, took in now.items():
                all_spent.setdefault(name, []).append(took)
            told = ", ".join(
                f"{name} {count / took.seconds:,.0f}/s and {1e3 * took.cpu / count:.3f} ms of CPU an image"
                for name, took in now.items()
            )
            print(f"{count:,} images on {available_cpus()} cores: {told}")
            print(
                f"ours: {memory.all / 2**20:,.0f} MiB ({memory.private / 2**20:,.0f} MiB private)", flush=True
            )
    seconds, cpu = (statistics.median(column) for column in zip(*all_spent["ours"], strict=True))
    for name, column in all_spent.items():
        rate = statistics.median(took.seconds for took in column) / seconds
        by_cpu = statistics.median(took.cpu for took in column) / cpu
        print(f"ours to {name}: {rate:.3f} of the rate, {by_cpu:.3f} of the images by seconds of CPU")


if __name__ == "__main__":
    main()
