"""How often the gate accepts which candidate.

    python bench/gate.py simulate --runs 400 --plot docs/gate-acceptance.svg
    python bench/gate.py pairs digits --models 11 --budget 3s

`simulate` prints how often each policy accepts a candidate by its true difference in accuracy and by the number of test
images, for models that disagree on 2, 5 and 8 % of the images, and what ten small losses after one another cost.
`pairs` trains models that differ only in their seed, and judges each against every other.
"""

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from image_classifier.process import available_cpus, limit_thread_spinning

limit_thread_spinning()

import matplotlib.pyplot as plt
import numpy as np

from image_classifier.datasets import DataRequest, Dataset, prepare
from image_classifier.evaluation import Evaluation, latency_ratio, measure
from image_classifier.evaluation.latency import describe_machine
from image_classifier.gate import SIGNIFICANCE, Opponent, RuleOutcome, Thresholds, judge
from image_classifier.gate.rules import Policy
from image_classifier.package import Model
from image_classifier.settings import Settings, load_settings, pick
from image_classifier.training import Plan, export_package, fit
from tests.gate.simulated_models import acceptance, loss_after_small_losses

DIFFERENCES = (-0.05, -0.03, -0.02, -0.01, -0.005, 0.0, 0.005, 0.01, 0.02)
IMAGES = (100, 360, 1_000, 10_000)
DISAGREEMENTS = (0.02, 0.05, 0.08)
CHAMPION_ACCURACY = 0.95


def simulate(runs: int, plot: Path | None) -> None:
    """Print and plot the operating characteristics of the policies."""
    for policy in Policy:
        thresholds = replace(pick(Settings(), Thresholds), gate_policy=policy)
        for disagreement in DISAGREEMENTS:
            rates = {
                images: [acceptance(thresholds, images, CHAMPION_ACCURACY, d, disagreement, runs) for d in DIFFERENCES]
                for images in IMAGES
            }
            print(f"\n{policy}, {100 * disagreement:g} % disagreement\n")
            print("| test images | " + " | ".join(f"{100 * d:+g}" for d in DIFFERENCES) + " |")
            print("|---|" + "---|" * len(DIFFERENCES))
            for images, row in rates.items():
                print(f"| {images:,} | " + " | ".join(f"{100 * rate:.0f} %" for rate in row) + " |", flush=True)
            if policy is Policy.NOT_WORSE and disagreement == DISAGREEMENTS[1] and plot is not None:
                draw(rates, plot)
        losses = [loss_after_small_losses(thresholds, 360, 0.97, 0.015, 10, d, runs) for d in DISAGREEMENTS]
        print(f"\n{policy}, ten candidates after one another, each 1.5 points worse than what serves, 360 test images:")
        print(", ".join(f"{100 * loss:.2f} points lost on average" for loss in losses))


def draw(rates: dict[int, list[float]], path: Path) -> None:
    """Plot the acceptance rate by the true difference, one line for each number of test images."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for images, row in rates.items():
        axes.plot([100 * d for d in DIFFERENCES], [100 * rate for rate in row], marker="o", label=f"{images:,}")
    axes.axvline(0, color="0.7", linewidth=1)
    axes.set(xlabel="true difference to the champion (points of accuracy)", ylabel="accepted (%)", ylim=(0, 102))
    axes.legend(title="test images")
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def trained(dataset: Dataset, settings: Settings, seed: int, folder: Path) -> tuple[Model, Evaluation]:
    """Train a model with a seed and evaluate it."""
    plan = pick(replace(settings, seed=seed), Plan, threads=available_cpus())
    outcome = fit(dataset, plan)
    parameters = {"seed": seed, "validation_fraction": settings.validation_fraction}
    provenance = {"data_digest": dataset.digest, "parameters": parameters}
    package = export_package(
        folder, outcome.classifier, dataset, outcome.validation, provenance, threads=available_cpus()
    )
    model = Model.load(package, available_cpus())
    evaluation, _ = measure(model, dataset, test_fraction=settings.test_fraction, abstain_error=settings.abstain_error)
    return model, evaluation


def compare_pairs(data: str, count: int, budget: str) -> None:
    """Print how the gate judges models of the same training against each other."""
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings({"data": data, "home": home, "budget": budget}, {})
        dataset = prepare(pick(settings, DataRequest))
        images = np.asarray(dataset.test.images[:8])
        models = [trained(dataset, settings, seed, Path(home) / f"model{seed}") for seed in range(count)]
    accuracies = [evaluation.accuracy for _, evaluation in models]
    decisions: Counter[str] = Counter()
    outcomes: Counter[tuple[str, RuleOutcome]] = Counter()
    disagreement = []
    for (candidate, evaluation), (champion, champion_evaluation) in itertools.permutations(models, 2):
        ratio = latency_ratio((candidate, images), (champion, images), SIGNIFICANCE)
        opponent = Opponent("the champion", champion_evaluation, latency_ratio=ratio)
        verdict = judge(evaluation, opponent, pick(settings, Thresholds))
        decisions[verdict.decision] += 1
        outcomes.update((result.rule, result.outcome) for result in verdict.results)
        disagreement.append(float((evaluation.correct != champion_evaluation.correct).mean()))
    print(f"{len(models)} models, test accuracy {100 * min(accuracies):.2f} to {100 * max(accuracies):.2f} %, ")
    print(f"disagreement {100 * min(disagreement):.1f} to {100 * max(disagreement):.1f} %\n")
    print("| rule | fails | not enough evidence |\n|---|---|---|")
    for rule in dict.fromkeys(rule for rule, _ in outcomes):
        print(f"| {rule} | {outcomes[rule, RuleOutcome.FAIL]} | {outcomes[rule, RuleOutcome.UNDECIDED]} |")
    print(f"\nof {sum(decisions.values())} pairs: " + ", ".join(f"{n} {decision}" for decision, n in decisions.items()))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    simulation = commands.add_parser("simulate")
    simulation.add_argument("--runs", type=int, default=400)
    simulation.add_argument("--plot", type=Path)
    pairs = commands.add_parser("pairs")
    pairs.add_argument("data")
    pairs.add_argument("--models", type=int, default=11)
    pairs.add_argument("--budget", default="3s")
    chosen = parser.parse_args(arguments)
    print(f"`{' '.join(['python', *sys.argv])}` on {describe_machine()}\n")
    if chosen.command == "simulate":
        simulate(chosen.runs, chosen.plot)
    else:
        compare_pairs(chosen.data, chosen.models, chosen.budget)


if __name__ == "__main__":
    main(sys.argv[1:])
