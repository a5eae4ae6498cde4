"""The result of a training: the best weights, the test-time flip and the calibrated temperature."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from image_classifier.training.batches import NormalizedImages
from image_classifier.training.checkpoint import TrainingState
from image_classifier.training.learning_curve import ReportPoint
from image_classifier.training.network import Classifier
from image_classifier.training.plan import Indices, TrainingInputs
from image_classifier.training.transfer.classifier import BackboneClassifier

_LOG_TEMPERATURE_BOUNDS = (math.log(0.01), math.log(20.0))


@dataclass(frozen=True)
class Trained:
    """A trained classifier, ready for export, and how it was trained."""

    classifier: Classifier | BackboneClassifier
    history: tuple[ReportPoint, ...]
    validation: Indices
    """Indices into `dataset.train` of the validation split."""
    validation_accuracy: float
    """Accuracy of `classifier` on the whole validation split."""
    seconds: float
    parameters: dict[str, int | float | str | bool]


def finish(inputs: TrainingInputs, images: NormalizedImages, state: TrainingState) -> Trained:
    """Build the classifier from the best weights, on the CPU.

    The logits are averaged over the image and its horizontal flip if that is more accurate on the validation split.
    """
    network = state.network
    network.load_state_dict(state.best_weights)
    network.to("cpu").eval()
    labels = torch.from_numpy(inputs.dataset.train.labels[inputs.validation])

    def classifier(*, flip: bool, temperature: float = 1.0) -> Classifier:
        return Classifier(network, images.mean, images.deviation, test_time_flip=flip, temperature=temperature).eval()

    @torch.inference_mode()
    def evaluate(*, flip: bool) -> tuple[float, bool, Tensor]:
        model, train_images = classifier(flip=flip), inputs.dataset.train.images
        chunks = images.inference_chunks(inputs.validation)
        logits = torch.cat([model.logits(torch.tensor(train_images[chunk])) for chunk in chunks])
        return float((logits.argmax(1) == labels).float().mean()), flip, logits

    candidates = [evaluate(flip=flip) for flip in ((False, True) if state.flip else (False,))]
    accuracy, flip, logits = max(candidates, key=lambda candidate: candidate[0])
    temperature = fit_temperature(logits, labels)
    return Trained(
        classifier=classifier(flip=flip, temperature=temperature),
        history=tuple(state.history),
        validation=inputs.validation,
        validation_accuracy=accuracy,
        seconds=state.elapsed,
        parameters={
            **inputs.plan.recipe.values(on_backbone=False),
            "width": state.sizing.width,
            "batch_size": inputs.batch_size,
            "bfloat16": state.sizing.bfloat16,
            "processes": inputs.plan.group.size,
            "steps": state.step,
            "epochs_seen": round(state.step * inputs.batch_size / len(inputs.train), 2),
            "network_parameters": sum(weight.numel() for weight in network.parameters()),
            "mirror": "yes" if state.flip else "no",
            "test_time_mirror": flip,
            "temperature": temperature,
        },
    )


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The divisor of the logits that maximizes the likelihood of the labels (Guo et al. 2017, arXiv:1706.04599).

    `logits` is float32 [N, K] and `labels` int64 [N], of images that were not trained on. The labels are smoothed as if
    one image of N + 2 were wrong (Platt 1999): otherwise a model without errors would be scaled to certainty.
    """
    smoothing = 1 / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_temperature), labels, label_smoothing=smoothing))

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURE_BOUNDS, method="bounded")
    return float(math.exp(found.x))
