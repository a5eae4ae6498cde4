"""Models of known accuracy and disagreement, to measure how often the gate accepts which candidate.

The probability that a model gives to the true of two classes has a logit with a normal distribution. Its variance is
twice its mean, so that the model is calibrated: the densities at x and -x then have the ratio exp(x), which is the odds
that it states. All models share a part of the logit, as an image that is hard for one model is hard for the others.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm

from image_classifier.evaluation import Evaluation
from image_classifier.gate.champion_checks import Pair, accuracy_drop, not_worse_than_best, not_worse_than_champion
from image_classifier.gate.rules import RuleOutcome, Thresholds

Logits = npt.NDArray[np.float64]
LOWEST_CORRELATION, HIGHEST_CORRELATION = -0.99, 0.9999


class ImageSet:
    """Test images of two classes, with the part of the logits that all models share."""

    def __init__(self, random: np.random.Generator, images: int) -> None:
        self._random = random
        self._shared = random.standard_normal(images)
        self._labels = np.arange(images) % 2

    def evaluate(self, accuracy: float, correlation: float) -> Evaluation:
        """The evaluation of a new model with that true accuracy, whose logits correlate so with every other model's."""
        mean = 2 * norm.ppf(accuracy) ** 2
        own = self._random.standard_normal(len(self._shared))
        noise = np.sqrt(correlation) * self._shared + np.sqrt(1 - correlation) * own
        true = 1 / (1 + np.exp(-(mean + np.sqrt(2 * mean) * noise)))
        predictions = np.where(true > 0.5, self._labels, 1 - self._labels)
        return Evaluation(
            package_digest="p",
            data_digest="d",
            test_fraction=0.2,
            classes=("cat", "dog"),
            labels=tuple(self._labels.tolist()),
            predictions=tuple(predictions.tolist()),
            confidences=tuple(np.maximum(true, 1 - true).tolist()),
            log_loss=float(-np.log(true).mean()),
            latency_p50=0.001,
            latency_p95=0.001,
            brier_scores=tuple((2 * (1 - true) ** 2).tolist()),
        )


@cache
def correlation_for(disagreement: float, *accuracies: float) -> float:
    """The correlation with which exactly one of two models is right on that fraction of the images."""
    bounds = [float(norm.ppf(accuracy)) for accuracy in accuracies]

    def excess(correlation: float) -> float:
        both = multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf(bounds)
        return float(sum(accuracies) - 2 * both - disagreement)

    if excess(HIGHEST_CORRELATION) >= 0:  # a larger difference than disagreement
        return HIGHEST_CORRELATION
    return float(brentq(excess, 0.0, HIGHEST_CORRELATION)) if excess(0.0) > 0 else 0.0


def pair_of(
    random: np.random.Generator, images: int, accuracies: Sequence[float], disagreement: float
) -> tuple[Evaluation, Evaluation]:
    """A candidate and a champion with these true accuracies, which disagree on that fraction of the images."""
    evaluated = ImageSet(random, images)
    correlation = correlation_for(disagreement, *accuracies)
    candidate, champion = (evaluated.evaluate(accuracy, correlation) for accuracy in accuracies)
    return candidate, champion


def accepts(candidate: Evaluation, champion: Evaluation, best: Evaluation | None, thresholds: Thresholds) -> bool:
    """Whether the rules about the accuracy accept a candidate; the other guards refuse at most 5 % of equal models."""
    pair = Pair(candidate, champion)
    results = [not_worse_than_champion(pair, thresholds), accuracy_drop(pair, thresholds)]
    if best is not None:
        results.append(not_worse_than_best(Pair(candidate, best), thresholds))
    return all(result.outcome is RuleOutcome.PASS for result in results)


def acceptance(
    thresholds: Thresholds, images: int, accuracy: float, difference: float, disagreement: float, runs: int
) -> float:
    """Fraction of `runs` in which a candidate that differs so from the champion's true accuracy is accepted."""
    random = np.random.default_rng(0)
    pairs = (pair_of(random, images, (accuracy + difference, accuracy), disagreement) for _ in range(runs))
    return float(np.mean([accepts(candidate, champion, None, thresholds) for candidate, champion in pairs]))


def loss_after_small_losses(
    thresholds: Thresholds, images: int, accuracy: float, loss: float, candidates: int, disagreement: float, runs: int
) -> float:
    """Mean drop of what serves in true accuracy, after candidates that are each that much worse than it."""
    random = np.random.default_rng(0)
    correlation = correlation_for(disagreement, accuracy, accuracy)
    losses = []
    for _ in range(runs):
        evaluated, serving = ImageSet(random, images), accuracy
        champions = [evaluated.evaluate(serving, correlation)]
        for _ in range(candidates):
            candidate = evaluated.evaluate(serving - loss, correlation)
            best = max(champions, key=lambda evaluation: evaluation.accuracy)
            anchor = best if best.accuracy > champions[-1].accuracy else None
            if accepts(candidate, champions[-1], anchor, thresholds):
                champions.append(candidate)
                serving -= loss
        losses.append(accuracy - serving)
    return float(np.mean(losses))
