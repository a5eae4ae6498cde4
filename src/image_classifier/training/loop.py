"""The training loop: steps until the time budget is spent, with report points and checkpoints.

The clock starts at the first step; whitening, and the few steps that time this machine, take about a second before it.
The learning rate falls linearly with the spent fraction of the budget, so it ends at 0 on a slow machine, too.

With `mirror` "auto", images are not flipped until a test at a report point, which takes less time than the report,
finds that mirrored images keep their class. Without evidence they are flipped after a third of the budget. On CIFAR-10
with 4,000 images and 20 epochs the accuracy was the same as with flips from the beginning (66.2 and 65.9 %, two seeds).

Reproducible: the same seed gives the same split, initial weights and, for each step, the same images and augmentation.
Not reproducible: the number of steps within the budget, and floating-point sums on another number of threads.
"""

import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from image_classifier.datasets import Dataset
from image_classifier.errors import TrainingError
from image_classifier.process import keep_large_blocks
from image_classifier.progress import Progress
from image_classifier.training.batches import Batches, NormalizedImages
from image_classifier.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from image_classifier.training.learning_curve import REPORT_POINTS, OnReport, ReportPoint
from image_classifier.training.mirroring import choose_rows, mirrored_images_keep_their_class
from image_classifier.training.network import Network
from image_classifier.training.optimizer import Optimizer
from image_classifier.training.plan import Clock, Indices, Plan, TrainingInputs
from image_classifier.training.sizing import Sizing, choose_sizing
from image_classifier.training.trained import Trained, finish
from image_classifier.training.transfer.fitting import fit_on_backbone

_REPORT_IMAGES = 1_000
_MAX_UNDECIDED_FRACTION = 1 / 3
"""Part of the budget after which images are flipped unless there is evidence against it."""


def fit(
    dataset: Dataset,
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    on_report: OnReport = lambda _: None,
    clock: Clock = time.perf_counter,
    shared_features: Path | None = None,
) -> Trained:
    """Train on the training part within the plan's budget; the validation split makes every choice.

    With a `checkpoint` folder an interrupted training of the same data and plan resumes. The first process of a group
    calls this function, the others `fit_worker`, with the same data and plan. `clock` returns seconds. On a
    backbone, the folder `shared_features` keeps the features for later trainings that differ only in the recipe. Raises
    TrainingError if the plan cannot be carried out with the data, or the budget is too short for a single step.
    """
    configure_process(plan.threads)
    inputs = TrainingInputs.check(dataset, plan)
    if plan.backbone is not None:
        trained = fit_on_backbone(inputs, plan.backbone, checkpoint, on_report, clock, shared_features)
        assert trained is not None
        return trained
    images = NormalizedImages(inputs)
    loop = _TrainingLoop(inputs, images, checkpoint, clock)
    with Progress("training", plan.budget, "s") as progress:
        progress.advance(loop.state.elapsed)
        loop.run(on_report, progress)
    return finish(inputs, images, loop.state)


def fit_worker(dataset: Dataset, plan: Plan) -> None:
    """Train together with the first process of the group, which reports and returns the result."""
    configure_process(plan.threads)
    inputs = TrainingInputs.check(dataset, plan)
    if plan.backbone is not None:
        fit_on_backbone(inputs, plan.backbone, None, lambda _: None, time.perf_counter)
        return
    _TrainingLoop(inputs, NormalizedImages(inputs), None, time.perf_counter).run(lambda _: None, None)


def configure_process(threads: int) -> None:
    """Set what holds for the whole process: PyTorch's number of threads, and that freed memory is kept for reuse."""
    torch.set_num_threads(threads)
    keep_large_blocks()


class _TrainingLoop:
    """Trains one network, from its initial weights or from a checkpoint."""

    def __init__(self, inputs: TrainingInputs, images: NormalizedImages, checkpoint: Path | None, clock: Clock) -> None:
        self._inputs, self._images, self._checkpoint, self._clock = inputs, images, checkpoint, clock
        group = inputs.plan.group
        self._batches = Batches(inputs, images)
        order = np.random.default_rng(inputs.plan.seed).permutation(inputs.validation)
        self._report_indices = np.sort(order[:_REPORT_IMAGES])
        rows = choose_rows(inputs.dataset.train.labels[order])
        self._mirror_indices = np.sort(order[rows])
        sample = images.sample()
        new_network = partial(_new_network, inputs, sample)
        stored = group.broadcast(load_checkpoint(checkpoint, inputs.key) if checkpoint else None)
        if stored:
            sizing = Sizing(stored[1]["bfloat16"], stored[1]["width"])
        elif group.is_first:
            sizing = group.broadcast(choose_sizing(inputs, sample, new_network, clock))
        else:
            sizing = group.broadcast(Sizing(False, 0.0))
        network = new_network(sizing.width)
        optimizer = Optimizer(network, inputs.plan.recipe, bfloat16=sizing.bfloat16)
        self.state = TrainingState(network, optimizer, sizing, flip=inputs.flip)
        self._parallel_network = group.data_parallel(network)
        if stored:
            self.state.restore(stored)

    def run(self, on_report: OnReport, progress: Progress | None) -> None:
        """Train until the budget is spent. Only the first process of a group has a `progress`, and reports."""
        budget, group, state = self._inputs.plan.budget, self._inputs.plan.group, self.state
        started = self._clock() - state.elapsed
        losses: list[float] = []
        state.network.train()
        while True:
            # All processes follow the first one's clock, and its decision about flips.
            elapsed, flip = group.broadcast_numbers(state.elapsed, bool(state.flip))
            if elapsed >= budget:
                break
            rate_fraction = 1 - elapsed / budget
            half_size = elapsed < self._inputs.half_size_seconds
            batch = self._batches.batch(state.step, half_size=half_size, flip=bool(flip))
            losses.append(self._step(*batch, rate_fraction))
            state.elapsed = self._clock() - started
            if progress is None:
                continue
            progress.advance(state.elapsed - elapsed, f"loss {losses[-1]:.3f}")
            is_over = state.elapsed >= budget
            if is_over or state.elapsed / budget * REPORT_POINTS >= len(state.history) + 1:
                if state.flip is None and not is_over:
                    self._decide_flip(half_size=half_size)
                self._report(rate_fraction, float(np.mean(losses)), on_report)
                losses.clear()
                if not is_over:
                    # The report takes time from the budget, but always leaves enough for one more step and its report.
                    state.elapsed = min(self._clock() - started, math.nextafter(budget, 0))

    def _decide_flip(self, *, half_size: bool) -> None:
        """Decide whether images are flipped by a test on the validation split; without evidence, decide later."""
        labels = self._inputs.dataset.train.labels[self._mirror_indices]
        logits, mirrored = (
            self._logits(self._mirror_indices, half_size=half_size, mirrored=mirrored).double().cpu().numpy()
            for mirrored in (False, True)
        )
        self.state.flip = mirrored_images_keep_their_class(logits, mirrored, labels)
        if self.state.flip is None and self.state.elapsed >= _MAX_UNDECIDED_FRACTION * self._inputs.plan.budget:
            self.state.flip = True

    def _step(self, images: Tensor, labels: Tensor, rate_fraction: float) -> float:
        state, smoothing = self.state, self._inputs.plan.recipe.label_smoothing
        with torch.autocast(self._inputs.device.type, torch.bfloat16, enabled=state.sizing.bfloat16):
            logits = self._parallel_network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step(rate_fraction)
        state.step += 1
        if not math.isfinite(loss.item()):
            raise TrainingError(f"the loss became {loss.item()} at step {state.step}; try another --seed")
        return loss.item()

    def _report(self, rate_fraction: float, train_loss: float, on_report: OnReport) -> None:
        """Evaluate on the validation split, keep the weights if they are the best so far, and write the checkpoint."""
        state, images = self.state, self._images
        logits = self._logits(self._report_indices)
        labels = images.labels(self._report_indices)
        loss = float(F.cross_entropy(logits, labels))
        accuracy = float((logits.argmax(1) == labels).float().mean())
        if not math.isfinite(loss):
            loss = math.inf
        if loss <= state.best_loss:
            state.best_loss = loss
            state.best_weights = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
        number = len(state.history) + 1
        point = ReportPoint(number, state.elapsed, rate_fraction, train_loss, loss, accuracy)
        state.history.append(point)
        # Before the report, which may fail: a registry that does not answer costs no training.
        if self._checkpoint is not None:
            save_checkpoint(self._checkpoint, self._inputs.key, state)
        on_report(point)

    def _logits(self, indices: Indices, *, half_size: bool = False, mirrored: bool = False) -> Tensor:
        """Logits of training images without augmentation, float32 [N, K], of half the side or mirrored if wanted."""
        network, images = self.state.network, self._images
        network.eval()
        logits = []
        with torch.inference_mode():
            for chunk in images.inference_chunks(indices):
                pixels = images.pixels(chunk)
                pixels = F.avg_pool2d(pixels, 2) if half_size else pixels
                logits.append(network(pixels.flip(3) if mirrored else pixels))
        network.train()
        return torch.cat(logits)


def _new_network(inputs: TrainingInputs, sample: Tensor, width: float) -> Network:
    """A network with the seed's initial weights, whitened on a sample of normalized images."""
    torch.manual_seed(inputs.plan.seed)
    dataset, channels = inputs.dataset, sample.size(1)
    network = Network(channels=channels, classes=len(dataset.classes), image_size=dataset.image_size, width=width)
    network.whiten(sample)
    network.to(inputs.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
