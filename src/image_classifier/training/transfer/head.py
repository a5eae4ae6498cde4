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

from image_classifier.datasets import stratified_folds
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
_RIDGES = (1e-3, 1e-4, 1e-5, 3e-6, 1e-6, 3e-7)
"""Regularizations that are tried for many small classes, in this order; a feature's variance is about 1 / D."""
_GAINS = np.geomspace(3, 1_000, 20)
"""Factors of the scores of least squares that are tried, to make them logits."""
_MAX_IMAGES_OF_SMALL_CLASSES = 50
"""Mean number of images of a class up to which least squares replaces the logistic regression of a large problem."""
_MAX_RIDGE_FEATURES = 4_096
_HISTORY = 10
_PIECE_ROWS = 4_096
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
        # In pieces, for which a copy of the features in float64 is small.
        pieces = (features[start : start + _PIECE_ROWS] for start in range(0, len(features), _PIECE_ROWS))
        deviation = np.sqrt(sum(np.square(piece - mean).sum(axis=0) for piece in pieces) / len(features))
        floor = _DEVIATION_FLOOR * float(np.median(deviation)) or 1.0
        # With the square root of D the strengths mean the same for every backbone.
        factor = 1 / (np.maximum(deviation, floor) * math.sqrt(features.shape[1]))
        return cls(mean.astype(np.float32), factor.astype(np.float32))

    def __call__(self, features: Features) -> Tensor:
        scaled = features - self.mean
        scaled *= self.factor
        return torch.from_numpy(scaled)

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
    strength: float | None = None,
    is_over: IsOver = lambda: False,
) -> Head:
    """Fit the classifier to features, float32 [N, D], with labels, int64 [N].

    Unless given, the `strength` of the regularization has the lowest loss in a five-fold cross-validation; of larger
    problems, on the `validation` images. A fit ends early when the time `is_over`. A large problem with many small
    classes is solved by least squares.
    """
    scale = Scale.of(features)
    inputs, targets = scale(features), torch.from_numpy(labels)
    if _has_many_small_classes(features, classes):
        ridges = _RIDGES if strength is None else (strength,)
        tested = scale(validation[0]), torch.from_numpy(validation[1])
        return scale.unscaled(*_least_squares(inputs, targets, classes, ridges, tested, is_over))
    is_small = features.size * classes <= _MAX_FOLDED_VALUES and len(labels) >= 2 * _FOLDS
    if strength is not None or not is_small:
        everywhere = torch.ones(1, len(labels))
        held_out, held_out_labels = scale(validation[0]), torch.from_numpy(validation[1])

        def loss(weight: Tensor, bias: Tensor) -> float:
            return float(F.cross_entropy(held_out @ weight[0] + bias[0], held_out_labels))

        strengths = STRENGTHS if strength is None else (strength,)
        return scale.unscaled(*_best(inputs, targets, everywhere, classes, strengths, loss, is_over))
    folds = stratified_folds(labels, _FOLDS)
    # The first fit is to all images, the others each leave out a fold.
    weights = torch.from_numpy(np.stack([folds != fold for fold in range(-1, _FOLDS)])).float()

    def cross_validated_loss(weight: Tensor, bias: Tensor) -> float:
        return float(F.cross_entropy(_held_out_logits(inputs, weight[1:], bias[1:], folds), targets))

    return scale.unscaled(*_best(inputs, targets, weights, classes, STRENGTHS, cross_validated_loss, is_over))


def _has_many_small_classes(features: Features, classes: int) -> bool:
    images, dimensions = features.shape
    is_large = features.size * classes > _MAX_UNCHECKED_VALUES and dimensions <= _MAX_RIDGE_FEATURES
    return is_large and images <= _MAX_IMAGES_OF_SMALL_CLASSES * classes


def _least_squares(
    inputs: Tensor,
    labels: Tensor,
    classes: int,
    ridges: tuple[float, ...],
    held_out: tuple[Tensor, Tensor],
    is_over: IsOver,
) -> tuple[Tensor, Tensor, float]:
    """Weight [D, K] and bias [K] of the ridge regression of the one-hot labels, and its regularization.

    With 1,000 classes of 7 photos it takes 2 s of CPU time for each regularization and has 94.2 % accuracy; the
    logistic regression has 88.6 % after 31 evaluations of its loss, 43 s. The regularization, and the factor that turns
    the scores into logits, have the lowest loss on the held-out images.
    """
    share = torch.bincount(labels, minlength=classes) / len(labels)
    # The inputs have a mean of 0.
    products = torch.zeros(classes, inputs.shape[1]).index_add_(0, labels, inputs).T.double() / len(labels)
    gram = (inputs.T @ inputs).double() / len(labels)

    def fit(ridge: float) -> tuple[float, Tensor, Tensor]:
        regularized = gram.clone()
        regularized.diagonal().add_(ridge)
        weight = torch.cholesky_solve(products, torch.linalg.cholesky(regularized)).float()
        scores = held_out[0] @ weight + share
        loss, gain = min((float(F.cross_entropy(scores * gain, held_out[1])), gain) for gain in _GAINS.tolist())
        return loss, weight.contiguous() * gain, share * gain

    return _lowest_loss(fit, ridges, is_over)


def cross_validated_probabilities(features: Features, labels: Labels, classes: int) -> npt.NDArray[np.float32]:
    """Probabilities, float32 [N, K], of each image by a classifier that is fitted without its fold, one of five.

    The strength of the regularization has the lowest loss of three.
    """
    scale, folds = Scale.of(features), stratified_folds(labels, _FOLDS)
    inputs, targets = scale(features), torch.from_numpy(labels)
    weights = torch.from_numpy(np.stack([folds != fold for fold in range(_FOLDS)])).float()
    found: list[tuple[float, Tensor]] = []

    def loss(weight: Tensor, bias: Tensor) -> float:
        logits = _held_out_logits(inputs, weight, bias, folds)
        found.append((float(F.cross_entropy(logits, targets)), logits))
        return found[-1][0]

    _best(inputs, targets, weights, classes, STRENGTHS[::2], loss, lambda: False)
    _, logits = min(found, key=lambda item: item[0])
    probabilities: npt.NDArray[np.float32] = logits.softmax(dim=1).numpy()
    return probabilities


def _held_out_logits(inputs: Tensor, weight: Tensor, bias: Tensor, folds: npt.NDArray[np.int64]) -> Tensor:
    """The logits [N, K] of each image by the fit that left out its fold."""
    return (inputs @ weight + bias[:, None])[torch.from_numpy(folds), torch.arange(len(inputs))]


def _best(
    inputs: Tensor,
    labels: Tensor,
    image_weights: Tensor,
    classes: int,
    strengths: tuple[float, ...],
    loss: Callable[[Tensor, Tensor], float],
    is_over: IsOver,
) -> tuple[Tensor, Tensor, float]:
    """Weight [D, K] and bias [K] of the first fit with the strength of the lowest loss, and that strength.

    Each row of `image_weights`, float32 [F, N] of 0 and 1, is a fit to the images with 1. All of them are made at once,
    which takes little longer than one.
    """
    fits = len(image_weights)
    weight = torch.zeros(fits, inputs.shape[1], classes, requires_grad=True)
    bias = torch.zeros(fits, classes, requires_grad=True)

    def fit(strength: float) -> tuple[float, Tensor, Tensor]:
        _minimize(inputs, labels, image_weights, weight, bias, strength, is_over)
        with torch.no_grad():
            return loss(weight, bias), weight[0].clone(), bias[0].clone()

    return _lowest_loss(fit, strengths, is_over)


def _lowest_loss(
    fit: Callable[[float], tuple[float, Tensor, Tensor]], strengths: tuple[float, ...], is_over: IsOver
) -> tuple[Tensor, Tensor, float]:
    """Weight and bias of the fit with the lowest loss, and its regularization. `fit` returns loss, weight and bias.

    At least the first strength is tried, and no more once the time is over, or when two have not been better.
    """
    best: tuple[float, Tensor, Tensor, float] | None = None
    worse = 0
    for strength in strengths:
        loss, weight, bias = fit(strength)
        if best is None or loss < best[0]:
            best, worse = (loss, weight, bias, strength), 0
        else:
            worse += 1
        if is_over() or worse == 2:
            break
    assert best is not None
    return best[1:]


def _minimize(
    inputs: Tensor,
    labels: Tensor,
    image_weights: Tensor,
    weight: Tensor,
    bias: Tensor,
    strength: float,
    is_over: IsOver,
) -> None:
    """Minimize each fit's mean loss plus half the strength times its squared weights, in place, by L-BFGS."""
    fits, dimensions, classes = weight.shape
    is_large = inputs.numel() * fits * classes > _MAX_UNCHECKED_VALUES
    iterations = 1 if is_large else _ITERATIONS_BETWEEN_CHECKS
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, history_size=_HISTORY, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    shares = image_weights / image_weights.sum(dim=1, keepdim=True)

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = inputs @ weight.transpose(0, 1).reshape(dimensions, fits * classes) + bias.reshape(-1)
        losses = F.cross_entropy(logits.reshape(-1, classes), labels.repeat_interleave(fits), reduction="none")
        loss = (losses.reshape(-1, fits) * shares.T).sum() + strength / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = math.inf
    for _ in range(_ITERATIONS // iterations):
        # LBFGS returns the loss before its iterations.
        loss = optimizer.step(closure).item()  # type: ignore[no-untyped-call]
        if before - loss < _TOLERANCE * fits or is_over():
            break
        before = loss
