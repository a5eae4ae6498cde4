"""Fine-tuning of the last stages of a backbone together with the classifier.

What the frozen part of the network computes, the activations, does not change, so it is computed once and kept. The
classifier begins as the one fitted to the frozen features (Kumar et al. 2022, arXiv:2202.10054), with a larger learning
rate than the pretrained layers, and the result is an exponential moving average of the weights.
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from image_classifier.backbones import EfficientNetLite, FeatureGraph, FeatureMap
from image_classifier.errors import TrainingError
from image_classifier.files import release_pages
from image_classifier.settings import Recipe
from image_classifier.training.checkpoint import Stored
from image_classifier.training.distributed import Group
from image_classifier.training.transfer.features import Activations, FeatureFile, Features
from image_classifier.training.transfer.head import Head, Labels, Scale

DEFAULT_BATCH_IMAGES = 32
MAX_EPOCHS = 12
"""Epochs, of images and mirror images alike, after which photos of clothes gained nothing more."""
MIN_STAGES = 2
"""Stages, counted from the last one, that are fine-tuned unless the recipe wants fewer. On photos of clothes the last
one alone gains nothing."""

_MIN_EPOCHS, _RESERVED_EPOCHS = 1.5, 3.0
"""Epochs that must be possible within the budget, as deeper stages take longer, and for which mirror images leave the
time."""
_WEIGHT_DECAY = 0.01
_BETAS = (0.9, 0.99)
_WARM_UP_STEPS = 20
_AVERAGING = 0.98
_EVALUATED_IMAGES = 64
_STEPS_BETWEEN_RELEASES = 64
_TIMED_IMAGES, _TIMED_STEPS = 16, 3
_MAX_BFLOAT16_TIME_FRACTION = 0.9


class Depth(NamedTuple):
    """What of a network is fine-tuned, and how."""

    stages: int
    """Number of stages, counted from the last one."""
    bfloat16: bool
    """Whether convolutions run in bfloat16; weights and their gradients are always float32."""
    seconds: float = 0.0
    """Time that must be left for it."""

    def start(self, network: EfficientNetLite) -> int:
        """Number of the first block."""
        return network.stage_starts[-self.stages]

    def activations(self, graph: FeatureGraph) -> FeatureMap:
        """What enters the first block."""
        return graph.maps[-2 - self.stages]


class FineTunedNetwork(nn.Module):
    """The last stages of a network, from the block `start` on, with the classifier on top."""

    def __init__(self, network: EfficientNetLite, start: int, head: Head, scale: Scale) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self._start = start
        for layers in (*self.network.blocks[start:], self.network.conv_head):
            layers.requires_grad_(True)
        weight, bias = scale.scaled(head)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.mean = nn.Buffer(torch.from_numpy(scale.mean))
        self.factor = nn.Buffer(torch.from_numpy(scale.factor))

    def forward(self, activations: Tensor, features: Tensor) -> Tensor:
        """Logits, float32 [N, K], of activations, float32 [N, C, H, W], and features of the frozen network [N, D]."""
        means = torch.cat([each.mean((2, 3)) for each in self.network.maps_from(self._start, activations)], dim=1)
        tuned = torch.cat([features[:, : features.size(1) - means.size(1)], means.float()], dim=1)
        scaled: Tensor = (tuned - self.mean) * self.factor
        return scaled @ self.weight + self.bias

    def head(self, scale: Scale, strength: float) -> Head:
        """The classifier of features that are not scaled."""
        return scale.unscaled(self.weight.detach(), self.bias.detach(), strength)


def choose_depth(
    network: EfficientNetLite,
    graph: FeatureGraph,
    *,
    max_stages: int,
    images: float,
    seconds: float,
    device: torch.device,
) -> Depth | None:
    """The most stages that `seconds` allow to train long enough; None if not even two, or the maximum if it is less.

    `images` is the number of training images of each process. A few steps are timed on this machine.
    """

    def seconds_per_image(stages: int, bfloat16: bool) -> float:
        return _seconds_per_image(network, graph, Depth(stages, bfloat16), device)

    stages, chosen = min(MIN_STAGES, max_stages), None
    float32, bfloat16 = (seconds_per_image(stages, bfloat16) for bfloat16 in (False, True))
    is_bfloat16 = bfloat16 < _MAX_BFLOAT16_TIME_FRACTION * float32
    step = bfloat16 if is_bfloat16 else float32
    while _MIN_EPOCHS * images * step <= seconds:
        chosen = Depth(stages, is_bfloat16, min(seconds, _RESERVED_EPOCHS * images * step))
        if stages == max_stages:
            break
        stages += 1
        step = seconds_per_image(stages, is_bfloat16)
    return chosen


def _seconds_per_image(network: EfficientNetLite, graph: FeatureGraph, depth: Depth, device: torch.device) -> float:
    """Of a training step: the shortest of a few, as other programs may be running."""
    zeros, entering = np.zeros(graph.dimensions, np.float32), depth.activations(graph)
    head = Head(np.zeros((graph.dimensions, 2), np.float32), np.zeros(2, np.float32), 0.0)
    timed = FineTunedNetwork(network, depth.start(network), head, Scale(zeros, zeros + 1))
    timed.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    shape = (_TIMED_IMAGES, entering.channels, entering.height, entering.width)
    activations = torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last)
    features = torch.zeros(_TIMED_IMAGES, graph.dimensions, device=device)

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=depth.bfloat16):
            logits = timed(activations, features)
        loss = logits.float().square().sum()
        loss.backward()
        loss.item()  # waits for the device
        return time.perf_counter() - started

    return min(step() for _ in range(_TIMED_STEPS)) / _TIMED_IMAGES


@dataclass(frozen=True)
class Samples:
    """Images, and mirror images, of this process, with what the frozen network computed of them."""

    files: Sequence[FeatureFile]
    labels: Labels
    """Of the whole training part, int64."""

    @property
    def counts(self) -> list[int]:
        return [len(file.activations) for file in self.files]

    def __len__(self) -> int:
        return sum(self.counts)

    def batch(self, indices: npt.NDArray[np.int64]) -> tuple[Activations, Features, Labels]:
        """Activations, features and labels of samples, by their numbers from 0."""
        places = [self._place(index) for index in indices.tolist()]
        return (
            np.stack([file.activations[row] for file, row in places]),
            np.stack([file.values[row] for file, row in places]),
            np.array([self.labels[file.rows[row]] for file, row in places]),
        )

    def release_pages(self) -> None:
        """Return the memory of activations that were read from files."""
        for file in self.files:
            release_pages(file.activations)

    def _place(self, index: int) -> tuple[FeatureFile, int]:
        for file, count in zip(self.files, self.counts, strict=True):
            if index < count:
                return file, index
            index -= count
        raise IndexError(index)


class FineTuner:
    """Trains a `FineTunedNetwork`, step by step; all processes of a group take the same steps."""

    def __init__(
        self,
        network: EfficientNetLite,
        depth: Depth,
        head: Head,
        scale: Scale,
        samples: Samples,
        *,
        group: Group,
        device: torch.device,
        recipe: Recipe,
        seed: int,
    ) -> None:
        self.step, self.depth = 0, depth
        self._scale, self._strength = scale, head.strength
        self._samples, self._group, self._device, self._seed = samples, group, device, seed
        self._label_smoothing = recipe.label_smoothing
        batch_images = recipe.batch_size or DEFAULT_BATCH_IMAGES
        self._batch_images = max(1, min(batch_images // group.size, len(samples)))
        self._tuned = FineTunedNetwork(network, depth.start(network), head, scale)
        self._tuned.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._average = AveragedModel(self._tuned, multi_avg_fn=get_ema_multi_avg_fn(_AVERAGING))  # type: ignore[no-untyped-call]
        self._parallel = group.data_parallel(self._tuned)
        classifier = [self._tuned.weight, self._tuned.bias]
        layers = [weight for weight in self._tuned.network.parameters() if weight.requires_grad]
        groups = [
            {"params": layers, "lr": recipe.fine_tuning_rate, "weight_decay": _WEIGHT_DECAY},
            {"params": classifier, "lr": recipe.fine_tuning_head_rate, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, betas=_BETAS)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._epoch: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def max_steps(self) -> int:
        """Steps of the maximum number of epochs."""
        return MAX_EPOCHS * self._steps_per_epoch

    @property
    def _steps_per_epoch(self) -> int:
        return max(1, len(self._samples) // self._batch_images)

    def train_step(self, done: float) -> float:
        """One step; `done` is the fraction of the training that is over, 0 to 1. Returns the loss. Collective."""
        activations, features, labels = self._batch()
        rate = (1 + math.cos(math.pi * done)) / 2 * min(1.0, (self.step + 1) / _WARM_UP_STEPS)
        for group, initial in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = initial * rate
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.depth.bfloat16):
            logits = self._parallel(activations, features)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self._label_smoothing)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._average.update_parameters(self._tuned)
        self.step += 1
        if self.step % _STEPS_BETWEEN_RELEASES == 0:
            self._samples.release_pages()
        if not math.isfinite(loss.item()):
            raise TrainingError(f"the loss became {loss.item()} in fine-tuning; try another --seed")
        return loss.item()

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        epoch, number = divmod(self.step, self._steps_per_epoch)
        if self._epoch[0] != epoch:
            generator = np.random.default_rng([self._seed, epoch, self._group.rank])
            self._epoch = epoch, generator.permutation(len(self._samples))
        chosen = self._epoch[1][number * self._batch_images : (number + 1) * self._batch_images]
        activations, features, labels = self._samples.batch(chosen)
        return (
            self._tensor(activations),
            torch.from_numpy(features).to(self._device),
            torch.from_numpy(labels).to(self._device),
        )

    def _tensor(self, activations: Activations) -> Tensor:
        values = torch.from_numpy(activations).to(self._device).float()
        return values.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def logits(self, file: FeatureFile) -> npt.NDArray[np.float32]:
        """Logits of the averaged weights for the first images of a file: all that have activations."""
        logits = [np.empty((0, len(self._tuned.bias)), np.float32)]
        count = len(file.activations)
        for begin in range(0, count, _EVALUATED_IMAGES):
            chunk = slice(begin, min(count, begin + _EVALUATED_IMAGES))
            activations = self._tensor(np.ascontiguousarray(file.activations[chunk]))
            features = torch.from_numpy(np.ascontiguousarray(file.values[chunk])).to(self._device)
            logits.append(self._average(activations, features).cpu().numpy())
        return np.concatenate(logits)

    def result(self) -> tuple[EfficientNetLite, Head]:
        """The network with the averaged weights, on the CPU, and its classifier."""
        averaged = copy.deepcopy(self._average.module).to("cpu")
        assert isinstance(averaged, FineTunedNetwork)
        return averaged.network.eval().requires_grad_(False), averaged.head(self._scale, self._strength)

    @property
    def state(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, by name."""
        tensors = {f"network.{name}": weight.detach() for name, weight in self._trained(self._tuned)}
        tensors |= {f"average.{name}": weight.detach() for name, weight in self._trained(self._average.module)}
        for (name, _), state in zip(self._trained(self._tuned), self._moments(), strict=True):
            tensors |= {f"optimizer.{moment}.{name}": value for moment, value in state.items()}
        return tensors

    def restore(self, stored: Stored) -> None:
        """Continue from a checkpoint of the same network, depth and images."""
        tensors, values = stored
        self.step = values["step"]
        with torch.no_grad():
            for prefix, module in (("network", self._tuned), ("average", self._average.module)):
                for name, weight in self._trained(module):
                    weight.copy_(tensors[f"{prefix}.{name}"])
            self._average.n_averaged.fill_(self.step)
        for name, weight in self._trained(self._tuned):
            self._optimizer.state[weight] = {
                moment: tensors[f"optimizer.{moment}.{name}"] for moment in ("step", "exp_avg", "exp_avg_sq")
            }

    def _moments(self) -> list[dict[str, Any]]:
        return [self._optimizer.state[weight] for _, weight in self._trained(self._tuned)]

    @staticmethod
    def _trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
        return [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
