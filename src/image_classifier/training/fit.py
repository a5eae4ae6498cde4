"""Training within a time budget.

The clock starts at the first step; whitening, and the few steps that measure how fast this machine is, come
before it and take about a second. The learning rate falls linearly with the share of the budget that is spent,
so a slow machine makes fewer steps and ends as well as it can.

What is reproducible: the same seed gives the same split, initial weights and, for each step, the same images
and augmentation. How many steps fit into the budget is the machine's matter, and floating-point sums may
differ with the number of threads.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from image_classifier.datasets import Dataset, split_validation
from image_classifier.errors import TrainingError
from image_classifier.process import available_cpus, keep_large_blocks
from image_classifier.progress import Progress
from image_classifier.settings import Recipe, Settings
from image_classifier.training.augmentation import augment
from image_classifier.training.checkpoint import load_checkpoint, save_checkpoint
from image_classifier.training.distributed import ALONE, Group
from image_classifier.training.network import Classifier, Network, channel_statistics
from image_classifier.training.optimizer import Optimizer

REPORTS = 12
WIDTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
IMAGES_PER_WIDTH_SQUARED = 140_000
"""How many images a network of width 1 wants to see before a wider one does better in the same time.

Work for an image grows with the square of the width, and the best width with the fourth root of the budget;
the constant was found on CIFAR-10's validation split at 60, 180 and 600 seconds.
"""
_WORTH_ROUNDING = 0.9
"""Share of float32's time below which bfloat16 is taken: a machine that has no instructions for it is slower."""
_SMALL_DATA = 10_000
"""Below so many training images each is seen so often that they are distorted, too."""
LARGE_SIDE = 160
HALF_SIDE_SHARE = 0.5
"""From LARGE_SIDE on, images have half their side in this share of the budget, the first: a step takes a quarter of
the time (progressive resizing, Howard et al. 2018, DAWNBench).

Smaller images are better learnt at their own side: on CIFAR-10's validation split at 64 and 128 pixels, and on
mosaics of 64 pixels, 60 seconds, it cost 0.1 to 1.7 points.
"""
_REPORT_IMAGES = 1_000
_STATISTICS_PIXELS = 2_000_000
_TIMED_IMAGES = 64
_INFERENCE_PIXELS = 500_000
_LOG_TEMPERATURES = (math.log(0.01), math.log(20.0))


@dataclass(frozen=True)
class Plan:
    """How it is trained, besides the data; in all processes of a group the same."""

    budget: float
    """Seconds, from the first step."""
    seed: int
    validation_fraction: float
    """Share of the training part that makes the choices and is not trained on."""
    recipe: Recipe
    threads: int
    device: str = "cpu"
    group: Group = ALONE

    @classmethod
    def of(cls, settings: Settings, group: Group = ALONE) -> Self:
        """What the settings ask for, with this process's share of the CPUs."""
        return cls(
            budget=settings.budget,
            seed=settings.seed,
            validation_fraction=settings.validation_fraction,
            recipe=settings.recipe,
            threads=group.threads(available_cpus()),
            device=settings.device,
            group=group,
        )


@dataclass(frozen=True)
class Epoch:
    """A report point: figures at an even share of the budget."""

    number: int
    seconds: float
    """Since the first step."""
    learning_rate: float
    """As a share of the full rate."""
    train_loss: float
    """Mean since the last report point, with label smoothing and augmentation."""
    validation_loss: float
    validation_accuracy: float

    @property
    def figures(self) -> dict[str, float]:
        """By name, as they are tracked."""
        return {name: value for name, value in asdict(self).items() if name != "number"}


@dataclass(frozen=True)
class Trained:
    """The best state that was found, ready for export, and how it came about."""

    classifier: Classifier
    history: tuple[Epoch, ...]
    validation: npt.NDArray[np.int64]
    """Indices into `dataset.train` of the validation split."""
    validation_accuracy: float
    """Of `classifier`, on the whole validation split."""
    seconds: float
    parameters: dict[str, int | float | str | bool]


def fit(
    dataset: Dataset,
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Trained:
    """Train on the training part within the plan's budget; the validation split makes every choice.

    With a `checkpoint` folder a killed run of the same data and plan goes on where it was. The first process of a group
    calls this, the others `assist`, with the same data and plan. Raises TrainingError for data that nothing can be
    learnt from and for a budget too short for a single step.
    """
    run = _Run(dataset, plan, checkpoint)
    run.resume()
    with Progress("training", plan.budget, "s") as progress:
        progress.advance(run.elapsed)
        run.train(on_epoch, progress)
    return run.result()


def assist(dataset: Dataset, plan: Plan) -> None:
    """Train with the first process of the group, which reports and keeps what comes of it."""
    run = _Run(dataset, plan, checkpoint=None)
    run.resume()
    run.train(lambda _: None, progress=None)


class _Run:
    """The state of one training."""

    def __init__(self, dataset: Dataset, plan: Plan, checkpoint: Path | None) -> None:
        if len(dataset.classes) < 2:
            raise TrainingError(f"{dataset.source} has one class only; there is nothing to tell apart")
        torch.set_num_threads(plan.threads)
        keep_large_blocks()
        torch.manual_seed(plan.seed)
        self.dataset, self.plan, self.checkpoint = dataset, plan, checkpoint
        self.device, group = device_named(plan.device), plan.group
        train, self.validation = split_validation(dataset.train.labels, plan.validation_fraction, plan.seed)
        if len(self.validation) == 0:
            raise TrainingError(
                f"{dataset.source} has one image a class to train with, and validation needs another; "
                "add images: a class wants three, one of them for the test part"
            )
        self.train_indices = train
        batch = min(plan.recipe.batch_size or _batch_size(len(train)), len(train))
        self.batch = batch // group.size * group.size
        if self.batch == 0:
            raise TrainingError(
                f"{group.size} processes are more than the {batch} images of a step; start fewer"
            )
        count = self._fitting(_STATISTICS_PIXELS)
        self.sample = np.sort(np.random.default_rng(plan.seed).permutation(train)[:count])
        self.mean, self.deviation = channel_statistics(dataset.train.images[self.sample], grey=dataset.grey)
        sample = self._pixels(self.sample)
        self.bfloat16, self.width = group.of_first(
            self._widest_that_pays(sample) if group.is_first else (False, 0.0)
        )
        self._begin(sample)
        self.step, self.elapsed = 0, 0.0
        self.history: list[Epoch] = []
        self.best_state: dict[str, Tensor] = {}
        self.best_loss = math.inf
        self.reported = np.sort(
            np.random.default_rng(plan.seed).permutation(self.validation)[:_REPORT_IMAGES]
        )
        key = [
            dataset.digest,
            dataset.image_size,
            dataset.mirror,
            plan.budget,
            plan.seed,
            plan.validation_fraction,
            str(plan.recipe),
        ]
        self.key = hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def _begin(self, sample: Tensor) -> None:
        self.network = self._network(self.width, sample)
        self.averaging = self.plan.group.averaging(self.network)
        self.optimizer = Optimizer(self.network, self.plan.recipe, bfloat16=self.bfloat16)

    @property
    def _begins_small(self) -> bool:
        return self.dataset.image_size >= LARGE_SIDE

    def _fitting(self, pixels: int) -> int:
        """How many images have `pixels` together, at least 64."""
        return max(64, pixels // self.dataset.image_size**2)

    def _in_parts(self, indices: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Parts small enough for inference at once."""
        return np.array_split(indices, math.ceil(len(indices) / self._fitting(_INFERENCE_PIXELS)))

    def _pixels(self, indices: npt.NDArray[np.int64]) -> Tensor:
        """Normalised images, float32 [N, C, S, S]."""
        images = self.dataset.train.images[indices]
        if self.dataset.grey:
            images = images[..., :1]
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2).float()
        mean, deviation = (
            figures.view(1, -1, 1, 1).to(self.device) for figures in (self.mean, self.deviation)
        )
        return (pixels - mean) / deviation

    def _network(self, width: float, sample: Tensor) -> Network:
        torch.manual_seed(self.plan.seed)
        network = Network(
            channels=sample.size(1),
            classes=len(self.dataset.classes),
            image_size=self.dataset.image_size,
            width=width,
        )
        network.whiten(sample)
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _widest_that_pays(self, sample: Tensor) -> tuple[bool, float]:
        """Whether bfloat16 is faster here, and the widest network that can be shown enough images within the budget."""
        images = sample[: min(self.batch, _TIMED_IMAGES)].contiguous(memory_format=torch.channels_last)
        labels = torch.zeros(len(images), dtype=torch.int64, device=self.device)

        def seconds_an_image(network: Network, *, bfloat16: bool) -> float:
            return min(self._timed_step(network, images, labels, bfloat16=bfloat16) for _ in range(3)) / len(
                images
            )

        widths = (self.plan.recipe.width,) if self.plan.recipe.width else WIDTHS
        network = self._network(widths[len(widths) // 2], sample)
        plain, short = (seconds_an_image(network, bfloat16=bfloat16) for bfloat16 in (False, True))
        bfloat16 = short < _WORTH_ROUNDING * plain
        chosen = widths[0]
        for width in widths:
            network = self._network(width, sample)
            seconds = seconds_an_image(network, bfloat16=bfloat16)
            if width == chosen and seconds * self.batch > self.plan.budget:
                raise TrainingError(
                    f"a budget of {self.plan.budget:g} s is too short: one step takes {seconds * self.batch:.2g} s "
                    "here; give a larger --budget or a smaller --image-size"
                )
            seen = self.plan.budget * self.plan.group.size / seconds
            if self._begins_small:
                seen *= 1 + (4 - 1) * HALF_SIDE_SHARE
            if seen < IMAGES_PER_WIDTH_SQUARED * width**2:
                break
            chosen = width
        return bfloat16, chosen

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented batches from the current step on; each depends on seed and step alone."""
        per_epoch = len(self.train_indices) // self.batch
        first_flips = (
            torch.rand(len(self.train_indices), generator=_generator(self.plan.seed, "flips", 0)) < 0.5
        )
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        while True:
            if self.step // per_epoch != epoch:
                epoch = self.step // per_epoch
                order = torch.randperm(
                    len(self.train_indices), generator=_generator(self.plan.seed, "order", epoch)
                )
            start = self.step % per_epoch * self.batch
            chosen = self.plan.group.share(order[start : start + self.batch])
            indices = self.train_indices[chosen.numpy()]
            # Each image is seen as it is and mirrored in turn (airbench), instead of by chance.
            flips = first_flips[chosen] ^ bool(epoch % 2) if self.dataset.mirror else None
            pixels = self._pixels(indices)
            if self._begins_small and self.elapsed < HALF_SIDE_SHARE * self.plan.budget:
                pixels = F.avg_pool2d(pixels, 2)
            images = augment(
                pixels,
                flips=flips,
                shift=self.plan.recipe.shift,
                distort=len(self.train_indices) < _SMALL_DATA,
                generator=_generator(self.plan.seed, f"augmentation {self.plan.group.rank}", self.step),
            )
            yield images, self._labels(indices)

    def _labels(self, indices: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.dataset.train.labels[indices]).to(self.device)

    def train(self, on_epoch: Callable[[Epoch], None], progress: Progress | None) -> None:
        started = time.perf_counter() - self.elapsed
        losses: list[float] = []
        batches = self._batches()
        self.network.train()
        # The first process's clock is everybody's.
        while (now := self.plan.group.number_of_first(self.elapsed)) < self.plan.budget:
            self.elapsed = now
            share_left = 1 - self.elapsed / self.plan.budget
            losses.append(self._step(*next(batches), share_left))
            before, self.elapsed = self.elapsed, time.perf_counter() - started
            if progress is None:
                continue
            progress.advance(self.elapsed - before, f"loss {losses[-1]:.3f}")
            is_over = self.elapsed >= self.plan.budget
            if is_over or self.elapsed / self.plan.budget * REPORTS >= len(self.history) + 1:
                self._report(share_left, float(np.mean(losses)), on_epoch)
                losses.clear()
                if not is_over:
                    # The report's own time counts, but never takes the last step's report away.
                    self.elapsed = min(time.perf_counter() - started, math.nextafter(self.plan.budget, 0))

    def _step(self, images: Tensor, labels: Tensor, learning_rate: float) -> float:
        with self._precision(bfloat16=self.bfloat16):
            logits = self.averaging(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.plan.recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(learning_rate)
        self.step += 1
        if not math.isfinite(loss.item()):
            raise TrainingError(f"the loss became {loss.item()} at step {self.step}; try another --seed")
        return loss.item()

    def _precision(self, *, bfloat16: bool) -> torch.autocast:
        """Convolutions in bfloat16 or not; weights, sums and gradients of weights are float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)

    def _timed_step(self, network: Network, images: Tensor, labels: Tensor, *, bfloat16: bool) -> float:
        started = time.perf_counter()
        with self._precision(bfloat16=bfloat16):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()  # waits for the device
        return time.perf_counter() - started

    def _report(self, learning_rate: float, train_loss: float, on_epoch: Callable[[Epoch], None]) -> None:
        self.network.eval()
        with torch.inference_mode():
            logits = torch.cat([self.network(self._pixels(part)) for part in self._in_parts(self.reported)])
        self.network.train()
        labels = self._labels(self.reported)
        loss = float(F.cross_entropy(logits, labels))
        accuracy = float((logits.argmax(1) == labels).float().mean())
        if not math.isfinite(loss):
            loss = math.inf
        if loss <= self.best_loss:
            self.best_loss = loss
            self.best_state = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        epoch = Epoch(len(self.history) + 1, self.elapsed, learning_rate, train_loss, loss, accuracy)
        self.history.append(epoch)
        on_epoch(epoch)
        self._save()

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_state.items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state.items()}
        progress = {
            "key": self.key,
            "bfloat16": self.bfloat16,
            "width": self.width,
            "step": self.step,
            "elapsed": self.elapsed,
            "best_loss": self.best_loss,
            "history": [asdict(epoch) for epoch in self.history],
        }
        save_checkpoint(self.checkpoint, tensors, progress)

    def resume(self) -> None:
        """Take up the checkpoint, if there is one of the same data and parameters."""
        found = self.plan.group.of_first(load_checkpoint(self.checkpoint) if self.checkpoint else None)
        if found is None or found[1].get("key") != self.key:
            return
        tensors, progress = found
        self.bfloat16, self.width = progress["bfloat16"], progress["width"]
        self._begin(self._pixels(self.sample))
        self.network.load_state_dict(_under("network.", tensors))
        for name, tensor in _under("optimizer.", tensors).items():
            self.optimizer.state[name].copy_(tensor)
        self.best_state = _under("best.", tensors)
        self.best_loss = progress["best_loss"]
        self.step, self.elapsed = progress["step"], progress["elapsed"]
        self.history = [Epoch(**epoch) for epoch in progress["history"]]

    def result(self) -> Trained:
        """The best state, with the test-time mirror where it helps on the validation split."""
        self.device = torch.device("cpu")
        self.network.load_state_dict(self.best_state)
        self.network.to(self.device).eval()
        labels = torch.from_numpy(self.dataset.train.labels[self.validation])
        accuracy, mirror, logits = max(
            (
                (float((logits.argmax(1) == labels).float().mean()), mirror, logits)
                for mirror in ((False, True) if self.dataset.mirror else (False,))
                for logits in [self._validation_logits(mirror=mirror)]
            ),
            key=lambda candidate: candidate[0],
        )
        temperature = fitted_temperature(logits, labels)
        return Trained(
            classifier=Classifier(
                self.network, self.mean, self.deviation, mirror=mirror, temperature=temperature
            ).eval(),
            history=tuple(self.history),
            validation=self.validation,
            validation_accuracy=accuracy,
            seconds=self.elapsed,
            parameters={
                **asdict(self.plan.recipe),
                "width": self.width,
                "batch_size": self.batch,
                "bfloat16": self.bfloat16,
                "processes": self.plan.group.size,
                "steps": self.step,
                "epochs_seen": round(self.step * self.batch / len(self.train_indices), 2),
                "network_parameters": sum(weight.numel() for weight in self.network.parameters()),
                "test_time_mirror": mirror,
                "temperature": temperature,
            },
        )

    @torch.inference_mode()
    def _validation_logits(self, *, mirror: bool) -> Tensor:
        classifier = Classifier(self.network, self.mean, self.deviation, mirror=mirror).eval()
        images = self.dataset.train.images
        parts = self._in_parts(self.validation)
        return torch.cat([classifier.logits(torch.tensor(images[part])) for part in parts])


def device_named(name: str) -> torch.device:
    """The device "cpu" or "cuda"; raises TrainingError where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device is 'cuda', but PyTorch finds no GPU here; train with --device cpu")
    return torch.device(name)


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """The divisor of the logits that gives the labels the highest likelihood (Guo et al. 2017, arXiv:1706.04599).

    `logits` is float32 [N, K], `labels` int64 [N], of images that were not trained on. The labels are smoothed
    as if one more image of N + 2 were wrong (Platt 1999), without which answers that are all right would ask for
    certainty.
    """
    smoothing = 1 / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float(F.cross_entropy(scaled, labels, label_smoothing=smoothing))

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded")
    return float(math.exp(found.x))


def _batch_size(images: int) -> int:
    """A power of two from 32 to 256 that leaves at least eight steps an epoch, where the data allow it."""
    size: int = 2 ** int(math.log2(max(1, images / 8)))
    return min(images, max(32, min(256, size)))


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    text = f"{seed} {purpose} {number}".encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:8]) // 2)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
