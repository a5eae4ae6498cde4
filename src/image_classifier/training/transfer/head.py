"""The linear classifier of a backbone's features: multinomial logistic regression, regularized.

Each feature is scaled to unit variance. On photos of clothes that is 5 points more accurate with five photos a class
than a common scale, and as accurate with all photos.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from image_classifier.training.transfer.features import Features

Labels = npt.NDArray[np.int64]
IsOver = Callable[[], bool]

STRENGTHS = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
"""Weight decays that are tried, in this order: each fit starts from the one before."""
_FOLDS = 5
_MAX_FOLDED_VALUES = 2_000 * 2_048 * 64
"""Size of a problem, images times features times classes, up to which cross-validation chooses the strength."""
_ITERATIONS, _ITERATIONS_BETWEEN_CHECKS = 60, 10
_MAX_UNCHECKED_VALUES = 10 * _MAX_FOLDED_VALUES
"""Size of a problem from which on the time is checked after each iteration: with 1,000 classes one takes a second."""
_HISTORY = 10
_TOLERANCE = 1e-5
_DEVIATION_FLOOR = 0.01
"""Least standard deviation of a feature, as a fraction of the median one: rare features are not blown up."""


class Head(NamedTuple):
    """A linear classifier of features."""

    weight: npt.NDArray[np.float32]
    """float32 [D, K]"""
    bias: npt.NDArray[np.float32]
    """float32 [K]"""
    strength: float
    """Weight decay that was chosen."""

    def logits(self, features: Features) -> npt.NDArray[np.float32]:
        """Logits, float32 [N, K], of features, float32 [N, D]."""
        return features @ self.weight + self.bias


class Scale(NamedTuple):
    """The scaling of features to a mean of 0 and, together, to a squared length of 1."""

    mean: npt.NDArray[np.float32]
    factor: npt.NDArray[np.float32]

    @classmethod
    def of(cls, features: Features) -> "Scale":
        mean = features.mean(axis=0, dtype=np.float64)
        deviation = features.std(axis=0, dtype=np.float64)
        floor = _DEVIATION_FLOOR * float(np.median(deviation)) or 1.0
        # With the square root of D the strengths mean the same for every backbone.
        factor = 1 / (np.maximum(deviation, floor) * math.sqrt(features.shape[1]))
        return cls(mean.astype(np.float32), factor.astype(np.float32))

    def __call__(self, features: Features) -> Tensor:
        return torch.from_numpy((features - self.mean) * self.factor)

    def scaled(self, head: Head) -> tuple[Tensor, Tensor]:
        """Weight [D, K] and bias [K] of the classifier of scaled features."""
        return torch.from_numpy(head.weight / self.factor[:, np.newaxis]), torch.from_numpy(
            head.bias + self.mean @ head.weight
        )

    def unscaled(self, weight: Tensor, bias: Tensor, strength: float) -> Head:
        """The classifier of features that are not scaled."""
        raw = self.factor[:, np.newaxis] * weight.numpy()
        return Head(raw, bias.numpy() - self.mean @ raw, strength)


def fit_head(
    features: Features,
    labels: Labels,
    classes: int,
    *,
    validation: tuple[Features, Labels],
    is_over: IsOver = lambda: False,
) -> Head:
    """Fit the classifier to features, float32 [N, D], with labels, int64 [N].

    The strength of the regularization has the lowest loss in a five-fold cross-validation; of larger problems, on the
    `validation` images. A fit ends early when the time `is_over`.
    """
    is_small = features.size * classes <= _MAX_FOLDED_VALUES and len(labels) >= 2 * _FOLDS
    strengths: tuple[float, ...] = STRENGTHS
    if is_small:
        losses = _cross_validate(features, labels, classes, is_over)
        strengths = (STRENGTHS[int(np.argmin(losses))],)
    scale = Scale.of(features)
    inputs, targets = scale(features), torch.from_numpy(labels)
    held_out, held_out_labels = scale(validation[0]), torch.from_numpy(validation[1])
    best: tuple[float, Head] | None = None
    for strength, weight, bias in _path(inputs, targets, classes, strengths, is_over):
        loss = float(F.cross_entropy(held_out @ weight + bias, held_out_labels))
        if best is None or loss < best[0]:
            best = loss, scale.unscaled(weight, bias, strength)
    assert best is not None
    return best[1]


def _cross_validate(features: Features, labels: Labels, classes: int, is_over: IsOver) -> npt.NDArray[np.float64]:
    """Mean loss of each strength on images that it was not fitted to; infinite for those without time."""
    folds = _stratified_folds(labels)
    losses = np.zeros(len(STRENGTHS))
    for fold in range(_FOLDS):
        inside, outside = folds != fold, folds == fold
        scale = Scale.of(features[inside])
        inputs, targets = scale(features[inside]), torch.from_numpy(labels[inside])
        held_out, held_out_labels = scale(features[outside]), torch.from_numpy(labels[outside])
        fitted = 0
        for number, (_, weight, bias) in enumerate(_path(inputs, targets, classes, STRENGTHS, is_over)):
            losses[number] += float(F.cross_entropy(held_out @ weight + bias, held_out_labels, reduction="sum"))
            fitted = number + 1
        losses[fitted:] = np.inf
    return losses / len(labels)


def _stratified_folds(labels: Labels) -> Labels:
    """The fold of each image: those of a class are spread over all folds, and the folds have equal sizes."""
    order = np.argsort(labels, kind="stable")
    folds = np.empty(len(labels), np.int64)
    folds[order] = np.arange(len(labels)) % _FOLDS
    return folds


def _path(
    inputs: Tensor, labels: Tensor, classes: int, strengths: tuple[float, ...], is_over: IsOver
) -> "list[tuple[float, Tensor, Tensor]]":
    """Weight [D, K] and bias [K] for each strength; at least the first one, and no more once the time is over."""
    weight = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    fits = []
    for strength in strengths:
        _minimize(inputs, labels, weight, bias, strength, is_over)
        fits.append((strength, weight.detach().clone(), bias.detach().clone()))
        if is_over():
            break
    return fits


def _minimize(inputs: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, strength: float, is_over: IsOver) -> None:
    """Minimize the mean loss plus half the strength times the squared weights, in place, by L-BFGS."""
    is_large = inputs.numel() * weight.size(1) > _MAX_UNCHECKED_VALUES
    iterations = 1 if is_large else _ITERATIONS_BETWEEN_CHECKS
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, history_size=_HISTORY, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight + bias, labels) + strength / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = math.inf
    for _ in range(_ITERATIONS // iterations):
        # LBFGS returns the loss before its iterations.
        loss = optimizer.step(closure).item()  # type: ignore[no-untyped-call]
        if before - loss < _TOLERANCE or is_over():
            break
        before = loss
