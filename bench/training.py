"""Test accuracy by training budget, mean over seeds; prints a Markdown table.

    python bench/training.py digits --budget 20s --seeds 0 1 2
    python bench/training.py path/to/cifar10 --budget 60s --budget 180s

The test part is read for the report alone: every choice was made on the validation split. Run it on a machine
that does nothing else: the budget is time, and other work takes a part of it.
"""

import argparse
import platform
import statistics
import sys
import tempfile
from pathlib import Path

from image_classifier.cpus import available_cpus, share_cpus

share_cpus()

import numpy as np
import torch

from image_classifier.datasets import prepare
from image_classifier.datasets.dataset import Dataset, Part
from image_classifier.network import Classifier
from image_classifier.recipe import Recipe
from image_classifier.settings import load_settings
from image_classifier.training import fit


def accuracy(classifier: Classifier, part: Part) -> float:
    with torch.inference_mode():
        right = [
            (classifier(torch.tensor(part.images[start : start + 500])).argmax(1).numpy())
            == part.labels[start : start + 500]
            for start in range(0, len(part.labels), 500)
        ]
    return float(np.concatenate(right).mean())


def measure(
    dataset: Dataset, budget: float, seed: int, recipe: Recipe
) -> tuple[float, float, float, dict[str, object]]:
    """Validation accuracy, test accuracy, seconds used, and what the training chose."""
    trained = fit(
        dataset,
        budget=budget,
        seed=seed,
        validation_fraction=0.1,
        recipe=recipe,
        checkpoint=None,
        on_epoch=lambda _: None,
        threads=available_cpus(),
    )
    tested = accuracy(trained.classifier, dataset.test)
    return trained.validation_accuracy, tested, trained.seconds, dict(trained.parameters)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--budget", action="append", required=True)
    parser.add_argument("--recipe", default="", help="hyperparameters, as of the command train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()

    print(f"`{' '.join(['python', *sys.argv])}`")
    print(
        f"{platform.processor() or platform.machine()}, {available_cpus()} CPUs, torch {torch.__version__}\n"
    )
    print("| data | budget | seed | used | width | epochs | validation | test |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as home:
        for text in arguments.budget:
            settings = load_settings(
                {"data": arguments.data, "home": home, "budget": text, "recipe": arguments.recipe}, {}
            )
            dataset = prepare(settings)
            name = Path(arguments.data).name
            tests = []
            for seed in arguments.seeds:
                validated, tested, seconds, chosen = measure(dataset, settings.budget, seed, settings.recipe)
                tests.append(tested)
                print(
                    f"| {name} | {text} | {seed} | {seconds:.1f} s | {chosen['width']} | {chosen['epochs_seen']} "
                    f"| {validated:.2%} | {tested:.2%} |",
                    flush=True,
                )
            spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
            print(
                f"| {name} | {text} | mean | | | | | **{statistics.mean(tests):.2%}** ± {spread:.2%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
