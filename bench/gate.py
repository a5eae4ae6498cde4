"""False-refusal rate of the gate: every model against every other model of the same training.

    python bench/gate.py digits --models 11 --budget 3s

The models differ only in their seed. Prints, for each rule, in how many of the pairs it fails and in how many there is
not enough evidence; all rules together may refuse at most FALSE_REFUSALS of the pairs.
"""

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from image_classifier.process import available_cpus, limit_thread_spinning

limit_thread_spinning()

import numpy as np

from image_classifier.datasets import DataRequest, Dataset, prepare
from image_classifier.evaluation import Evaluation, latency_ratio, measure
from image_classifier.evaluation.latency import describe_machine
from image_classifier.gate import SIGNIFICANCE, RuleOutcome, Thresholds, judge
from image_classifier.gate.champion_checks import FALSE_REFUSALS
from image_classifier.package import Model
from image_classifier.settings import Settings, load_settings, pick
from image_classifier.training import Plan, export_package, fit


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--models", type=int, default=11)
    parser.add_argument("--budget", default="3s")
    arguments = parser.parse_args()

    print(f"`{' '.join(['python', *sys.argv])}` on {describe_machine()}\n")
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings({"data": arguments.data, "home": home, "budget": arguments.budget}, {})
        dataset = prepare(pick(settings, DataRequest))
        images = np.asarray(dataset.test.images[:8])
        models = [trained(dataset, settings, seed, Path(home) / f"model{seed}") for seed in range(arguments.models)]
    accuracies = [evaluation.accuracy for _, evaluation in models]
    refused, outcomes = 0, Counter()
    for (candidate, evaluation), (champion, champion_evaluation) in itertools.permutations(models, 2):
        ratio = latency_ratio((candidate, images), (champion, images), SIGNIFICANCE)
        verdict = judge(evaluation, champion_evaluation, pick(settings, Thresholds), latency_ratio=ratio)
        refused += not verdict.accepted
        outcomes.update((result.rule, result.outcome) for result in verdict.results)
    pairs = len(models) * (len(models) - 1)
    print(f"{len(models)} models, test accuracy {100 * min(accuracies):.2f} to {100 * max(accuracies):.2f} %\n")
    print("| rule | fails | not enough evidence |\n|---|---|---|")
    for rule in dict.fromkeys(rule for rule, _ in outcomes):
        print(f"| {rule} | {outcomes[rule, RuleOutcome.FAIL]} | {outcomes[rule, RuleOutcome.UNDECIDED]} |")
    print(
        f"\nrefused: {refused} of {pairs} pairs ({100 * refused / pairs:.1f} %); the maximum is "
        f"{100 * FALSE_REFUSALS:g} %"
    )


if __name__ == "__main__":
    main()
