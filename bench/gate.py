"""How often the gate refuses a model that is no worse: every model against every other of the same training.

    python bench/gate.py digits --models 11 --budget 3s

The models differ by their seed alone. Prints, by rule, in how many of the pairs it refuses and in how many it says
that there is not enough evidence; all rules together are to refuse at most FALSE_REFUSALS of the pairs.
"""

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from image_classifier.gate import RuleOutcome
from image_classifier.process import available_cpus, share_cpus

share_cpus()

import numpy as np

from image_classifier.datasets import prepare
from image_classifier.datasets.dataset import Dataset
from image_classifier.evaluation.evaluation import Evaluation
from image_classifier.evaluation.latency import latency_ratio, machine
from image_classifier.evaluation.measurement import evaluate
from image_classifier.gate.champion_checks import FALSE_REFUSALS, SIGNIFICANCE
from image_classifier.gate.verdict import judge
from image_classifier.package.package import Model
from image_classifier.settings import Settings, load_settings
from image_classifier.training.export import export_package
from image_classifier.training.fit import Plan, fit


def trained(dataset: Dataset, settings: Settings, seed: int, folder: Path) -> tuple[Model, Evaluation]:
    outcome = fit(dataset, replace(Plan.of(settings), seed=seed))
    parameters = {"seed": seed, "validation_fraction": settings.validation_fraction}
    provenance = {"data_digest": dataset.digest, "parameters": parameters}
    package = export_package(
        folder, outcome.classifier, dataset, outcome.validation, provenance, threads=available_cpus()
    )
    model = Model.load(package, available_cpus())
    evaluation, _ = evaluate(
        model, dataset, test_fraction=settings.test_fraction, abstain_error=settings.abstain_error
    )
    return model, evaluation


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--models", type=int, default=11)
    parser.add_argument("--budget", default="3s")
    arguments = parser.parse_args()

    print(f"`{' '.join(['python', *sys.argv])}` on {machine()}\n")
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings({"data": arguments.data, "home": home, "budget": arguments.budget}, {})
        dataset = prepare(settings)
        images = np.asarray(dataset.test.images[:8])
        models = [
            trained(dataset, settings, seed, Path(home) / f"model{seed}") for seed in range(arguments.models)
        ]
    accuracies = [evaluation.accuracy for _, evaluation in models]
    refused, outcomes = 0, Counter()
    for (candidate, evaluated), (champion, known) in itertools.permutations(models, 2):
        ratio = latency_ratio((candidate, images), (champion, images), SIGNIFICANCE)
        verdict = judge(evaluated, known, settings, latency_ratio=ratio)
        refused += not verdict.accepted
        outcomes.update((finding.rule, finding.outcome) for finding in verdict.findings)
    pairs = len(models) * (len(models) - 1)
    print(f"{len(models)} models, test accuracy {min(accuracies):.2%} to {max(accuracies):.2%}\n")
    print("| rule | refuses | not enough evidence |\n|---|---|---|")
    for rule in dict.fromkeys(rule for rule, _ in outcomes):
        print(f"| {rule} | {outcomes[rule, RuleOutcome.FAIL]} | {outcomes[rule, RuleOutcome.UNDECIDED]} |")
    print(
        f"\nrefused: {refused} of {pairs} pairs ({refused / pairs:.1%}); at most {FALSE_REFUSALS:.0%} are to be"
    )


if __name__ == "__main__":
    main()
