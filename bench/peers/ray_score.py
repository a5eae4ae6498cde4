"""Scores a folder of parquet files by Ray Data, as its guide to batch inference does it: bench/score.py runs it.

python ray_score.py FOLDER PACKAGE RESULTS PROCESSES
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import ray

from image_classifier.images.decoder import decode
from image_classifier.package.model import Model
from image_classifier.package.package import Package
from image_classifier.settings import Settings


class Scorer:
    """One model for each process."""

    def __init__(self, package: str) -> None:
        self.model = Model.load(Package.read(Path(package)), threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        size = self.model.package.image_size
        images = [decode(image["bytes"], size, Settings.max_pixels) for image in batch["image"]]
        probabilities = self.model.probabilities(np.stack(images))
        labels = np.array(self.model.classes)[probabilities.argmax(axis=1)]
        return {"given": batch["label"], "label": labels, "probabilities": probabilities}


def main() -> None:
    folder, package, results, processes = sys.argv[1:]
    # One CPU more than there are: reading and writing are tasks of their own, which would never get one.
    ray.init(num_cpus=int(processes) + 1, include_dashboard=False, log_to_driver=False)
    data = ray.data.read_parquet(folder, columns=["image", "label"])
    scored = data.map_batches(
        Scorer, fn_constructor_args=(package,), batch_size=256, concurrency=int(processes), num_cpus=1
    )
    scored.write_parquet(results)


if __name__ == "__main__":
    main()
