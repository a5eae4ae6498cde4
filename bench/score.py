"""`image-classifier score` against a bare loop over the same parquet files, in turn in the same run.

    python bench/score.py FOLDER_WITH_PARQUET_FILES PACKAGE [--repeats 3] [--times 1] [--ray]

The bare loop: as many processes, forked beforehand and with their sessions loaded, so that their start costs it
nothing; each takes row groups in turn, decodes the images, and asks the model about 256 at a time. It keeps no answer,
checks nothing, and catches nothing. It decodes once by Pillow alone (`Image.open(...).convert("RGB")`: the images must
have the model's size) and once by our decoder. Ours is the whole command, from its start to its summary. `--times`
scores the files so many times over; `--ray` lets Ray Data do the same, too. Prints the rates, ours to each other one,
and the peak memory of ours (all its processes).
"""

import argparse
import io
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from data import PeakMemory
from environments import PEERS, make_environment
from image_classifier.cpus import available_cpus
from image_classifier.images import decode
from image_classifier.package import Graph, Package
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


def rate_of_bare(folder: Path, package: Path, decoder: str) -> float:
    tasks = [
        (file, group, decoder, package)
        for file in sorted(folder.iterdir())
        for group in range(pq.read_metadata(file).num_row_groups)
    ]
    with multiprocessing.get_context("fork").Pool(available_cpus()) as pool:
        # Each process takes some of them and loads its session.
        pool.map(score_bare, tasks[: 4 * available_cpus()], chunksize=1)
        began = time.perf_counter()
        count = sum(pool.imap_unordered(score_bare, tasks))
        return count / (time.perf_counter() - began)


def rate_of_ours(folder: Path, package: Path, count: int) -> tuple[float, PeakMemory]:
    with tempfile.TemporaryDirectory() as home:
        command = [
            sys.executable,
            "-m",
            "image_classifier.cli",
            "score",
            str(folder),
            "--model",
            str(package),
        ]
        with PeakMemory() as memory:
            began = time.perf_counter()
            subprocess.run(
                [*command, "--to", f"{home}/scores", "--home", home], check=True, stdout=sys.stderr
            )
            return count / (time.perf_counter() - began), memory


def rate_of_ray(folder: Path, package: Path, count: int) -> float:
    python = make_environment("ray")
    with tempfile.TemporaryDirectory() as home:
        command = [python, PEERS / "ray_score.py", folder, package, f"{home}/scores", str(available_cpus())]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=sys.stderr)
        return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description="Batch scoring against a bare loop.")
    parser.add_argument("data", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--ray", action="store_true")
    given = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in ("ours", *DECODERS)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(given.times):
            for file in given.data.glob("*.parquet"):
                (folder / f"{file.stem}-{number}.parquet").symlink_to(file.absolute())
        count = sum(pq.read_metadata(file).num_rows for file in folder.iterdir())
        for _ in range(given.repeats):
            for decoder in DECODERS:
                rates[decoder].append(rate_of_bare(folder, given.package, decoder))
            rate, memory = rate_of_ours(folder, given.package, count)
            rates["ours"].append(rate)
            if given.ray:
                rates.setdefault("Ray Data", []).append(rate_of_ray(folder, given.package, count))
            told = ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rates.items())
            print(
                f"{count:,} images on {available_cpus()} cores: {told}; ours took {memory.all / 2**20:,.0f} MiB "
                f"({memory.private / 2**20:,.0f} MiB private)"
            )
    ours = statistics.median(rates["ours"])
    for name, values in rates.items():
        print(f"ours to {name}: {ours / statistics.median(values):.3f}")


if __name__ == "__main__":
    main()
