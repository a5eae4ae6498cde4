"""Test accuracy by training budget, with the mean over seeds, as a Markdown table.

    python bench/training.py digits --budget 20s --seeds 0 1 2
    python bench/training.py path/to/cifar10 --budget 60s --budget 180s --keras

The test part is only read for this report: every choice is made on the validation split. Run it on an idle machine: the
budget is time, and other work takes a part of it.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from image_classifier.process import available_cpus, limit_thread_spinning

limit_thread_spinning()

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from environments import PEERS, make_environment
from image_classifier.datasets import prepare
from image_classifier.datasets.dataset import Dataset, DatasetPart
from image_classifier.settings import Recipe, load_settings
from image_classifier.steps.backbone import data_request
from image_classifier.training import Plan, fit
from image_classifier.training.network import Classifier
from image_classifier.training.trained import Trained


def accuracy(classifier: Classifier, part: DatasetPart) -> float:
    with torch.inference_mode():
        right = [
            (classifier(torch.tensor(part.images[start : start + 500])).argmax(1).numpy())
            == part.labels[start : start + 500]
            for start in range(0, len(part.labels), 500)
        ]
    return float(np.concatenate(right).mean())


def train(dataset: Dataset, budget: float, seed: int, recipe: Recipe) -> Trained:
    return fit(dataset, Plan(budget, seed, 0.1, recipe, available_cpus()))


def rate(trained: Trained, dataset: Dataset) -> float:
    """Arithmetic of the training in GFLOP/s; a step takes three times the arithmetic of the forward pass."""
    images = int(trained.parameters["steps"]) * int(trained.parameters["batch_size"])
    sides = 2 if trained.classifier.test_time_flip else 1
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        trained.classifier(torch.tensor(dataset.test.images[:1]))
    return 3 * counter.get_total_flops() / sides * images / trained.seconds / 1e9


def product_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of the product of two 2048×2048 matrices on this machine."""
    matrix = torch.rand(2048, 2048).to(dtype)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - started)
    return float(2 * 2048**3 / min(seconds) / 1e9)


def measure_keras(dataset: Dataset, seed: int, folder: Path) -> tuple[float, float]:
    """Test accuracy of a beginner's network in Keras, trained for ten epochs, and seconds used."""
    arrays = folder / "images.npz"
    if not arrays.exists():
        parts = {"train": dataset.train, "test": dataset.test}
        np.savez(
            arrays,
            **{f"{name}_images": part.images for name, part in parts.items()},
            **{f"{name}_labels": part.labels for name, part in parts.items()},
        )
    command = [make_environment("keras"), PEERS / "keras_network.py", arrays, str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["accuracy"], found["seconds"]


def print_mean(name: str, budget: str, tests: list[float]) -> None:
    spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
    print(f"| {name} | {budget} | mean | | | | | | **{statistics.mean(tests):.2%}** ± {spread:.2%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--budget", action="append", required=True)
    parser.add_argument("--recipe", default="", help="hyperparameters, as for `image-classifier train`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keras", action="store_true", help="also train a beginner's network in Keras")
    arguments = parser.parse_args()

    print(f"`{' '.join(['python', *sys.argv])}`")
    print(
        f"{platform.processor() or platform.machine()}, {available_cpus()} CPUs, torch {torch.__version__}; "
        f"matrix product: {product_rate(torch.float32):.0f} GFLOP/s in float32, "
        f"{product_rate(torch.bfloat16):.0f} in bfloat16\n"
    )
    print("| data | budget | seed | time | width | epochs | GFLOP/s | validation | test |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as home:
        for text in arguments.budget:
            settings = load_settings(
                {"data": arguments.data, "home": home, "budget": text, "recipe": arguments.recipe}, {}
            )
            dataset = prepare(data_request(replace(settings, backbone="none")))
            name = Path(arguments.data).name
            tests = []
            for seed in arguments.seeds:
                trained = train(dataset, settings.budget, seed, settings.recipe)
                tests.append(accuracy(trained.classifier, dataset.test))
                chosen = trained.parameters
                print(
                    f"| {name} | {text} | {seed} | {trained.seconds:.1f} s | {chosen['width']} "
                    f"| {chosen['epochs_seen']} | {rate(trained, dataset):.0f} "
                    f"| {trained.validation_accuracy:.2%} | {tests[-1]:.2%} |",
                    flush=True,
                )
            print_mean(name, text, tests)
        if arguments.keras:
            tests = []
            for seed in arguments.seeds:
                tested, seconds = measure_keras(dataset, seed, Path(home))
                tests.append(tested)
                print(f"| {name} | Keras | {seed} | {seconds:.1f} s | | 10 | | | {tested:.2%} |", flush=True)
            print_mean(name, "Keras", tests)


if __name__ == "__main__":
    main()
