"""Detection of label errors among images that the model was not trained on.

Confident learning (Northcutt, Jiang & Chuang 2021, arXiv:1911.00068) compares labels with confident out-of-sample
predictions and ranks the contradictions by margin. Its thresholds, the mean confidence of each class, also list the
mistakes of a weak model: 99 of 598 photos without label errors, at 62 % accuracy. Here a label is suspect if, by Bayes'
rule and given how often this model errs at that confidence, it is wrong with a probability of at least 70 %.

With 5 % of the labels flipped at random, also those trained on, 271 of 275 suspects were flipped ones in 17 trainings
on the digits (432 flipped), and 22 of 24 in 13 trainings on photos of clothes at 64 pixels (377 flipped; 34 to 80 %
accuracy): a weak model finds few label errors.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from image_classifier.datasets import DatasetPart
from image_classifier.package import Probabilities

MAX_SUSPECTS = 24

_MIN_WRONG_PROBABILITY = 0.7
_MIN_CONFIDENCE = 0.7
# Below 1 because a model is underconfident if it was calibrated on wrong labels. Below 0.7, the mistakes of weak models
# would pass for label errors.
_TEMPERATURES = tuple(np.geomspace(0.7, 4, 11).tolist())
_DECIMALS = 6
_NOISE_RATES = tuple(np.geomspace(1e-4, 0.4, 20).tolist())

Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong."""

    part: str
    """Either test, or train for an image of the validation split."""
    row: int
    """Row in that part."""
    name: str
    label: str
    suggested: str
    confidence: float
    """Probability of the suggested class."""
    self_confidence: float
    """Probability of the class in the label."""

    @classmethod
    def of(
        cls, name: str, part: DatasetPart, row: int, classes: tuple[str, ...], suggested: int, probabilities: Floats
    ) -> Self:
        """The suspect in that row of the part with this name; `probabilities` of its classes, float [K]."""
        label = int(part.labels[row])
        return cls(
            part=name,
            row=row,
            name=part.names[row],
            label=classes[label],
            suggested=classes[suggested],
            confidence=round(float(probabilities[suggested]), _DECIMALS),
            self_confidence=round(float(probabilities[label]), _DECIMALS),
        )


@dataclass(frozen=True)
class LabelErrors:
    """Probable label errors among images that the model was not trained on."""

    images: int
    """Number of images checked, and of suspects among them."""
    count: int
    suspects: tuple[Suspect, ...]
    """Those with the largest margin first, at most 24."""
    expected_precision: float | None = None
    """Expected fraction of all suspects whose label is wrong; None without suspects, or from an older version."""

    @classmethod
    def of(cls, images: int, suspects: list[Suspect], wrong: Floats) -> Self:
        """The label errors among that number of images; `wrong` is P(label is wrong) of each suspect."""
        expected_precision = round(float(wrong.mean()), _DECIMALS) if len(wrong) else None
        return cls(images, len(suspects), tuple(suspects[:MAX_SUSPECTS]), expected_precision)


def find_label_errors(probabilities: Probabilities, labels: Labels) -> tuple[Labels, Labels, Floats]:
    """Find the suspect labels: their rows, ranked by margin, the classes suggested, and P(label is wrong).

    `probabilities`, float32 [N, K], must be of images that the model was not trained on; `labels` is int64 [N]. The
    three results have one element per suspect; the mean of the last is the expected precision. The margin is the
    probability of the predicted class, which is suggested, minus that of the label. Only predictions with a confidence
    of at least 70 % take part, of classes that occur among the labels.
    """
    predicted = probabilities.argmax(axis=1)
    rows = np.flatnonzero((probabilities.max(axis=1) >= _MIN_CONFIDENCE) & np.isin(predicted, labels))
    wrong = _wrong_probabilities(probabilities[rows], labels[rows])
    suspect = (predicted[rows] != labels[rows]) & (wrong >= _MIN_WRONG_PROBABILITY)
    rows, wrong = rows[suspect], wrong[suspect]
    margins = probabilities[rows, predicted[rows]] - probabilities[rows, labels[rows]]
    order = np.argsort(-margins, kind="stable")
    return rows[order], predicted[rows[order]], wrong[order]


def _wrong_probabilities(probabilities: Probabilities, labels: Labels) -> Floats:
    """P(label is wrong) of each image, float64 [N].

    The model of the labels: a fraction q was replaced by any of the K - 1 other classes (symmetric noise), and the
    predictions are calibrated if their logits are divided by a temperature (Guo et al. 2017, arXiv:1706.04599). With s,
    the calibrated probability of the label, the label is right with likelihood (1 - q) s, and wrong with likelihood
    q (1 - s) / (K - 1). The temperature explains mistakes whose label still has some probability, q those whose label
    has almost none. Neither is known, so the result is the mean over a grid of both, weighted by the likelihood of all
    labels, with a log-uniform prior: few contradictions prove little.
    """
    logits = np.log(np.maximum(probabilities, 1e-9))
    label_logits = logits[np.arange(len(labels)), labels]
    self_confidences = np.empty((len(_TEMPERATURES), len(labels)))
    for index, temperature in enumerate(_TEMPERATURES):
        self_confidences[index] = np.exp(label_logits / temperature) / np.exp(logits / temperature).sum(axis=1)

    def likelihoods(noise_rate: float) -> tuple[Floats, Floats]:
        """Likelihood of each label, and of the label being wrong, for each temperature: float64 [temperatures, N]."""
        wrong = noise_rate * (1 - self_confidences) / (probabilities.shape[1] - 1)
        return (1 - noise_rate) * self_confidences + wrong, wrong

    evidence = np.array([np.log(likelihoods(noise_rate)[0]).sum(axis=1) for noise_rate in _NOISE_RATES])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    result = np.zeros(len(labels))
    for noise_rate, weight in zip(_NOISE_RATES, weights, strict=True):
        total, wrong = likelihoods(noise_rate)
        result += weight @ (wrong / total)
    return result
