"""Test accuracy on photos by training budget, next to what a user would write instead, as a Markdown table.

    python bench/photos.py path/to/clothes --budget 60s --budget 180s --seeds 0 1 2 3 4 --peers
    python bench/photos.py path/to/clothes --classes hat shoes --train-images 250 --budget 60s
    python bench/photos.py path/to/clothes --shots 5 10 --draws 10

The peers use the same weights: (a) features of the frozen network in eager PyTorch and scikit-learn's logistic
regression with its default strength; (b) fine-tuning of all layers by SGD within the budget; (c) the network from
scratch within the budget. The test part is only read for this report. Run it on an idle machine: the budget is time.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from image_classifier.process import available_cpus, limit_thread_spinning

limit_thread_spinning()

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from image_classifier.backbones import SHIPPED, Backbone
from image_classifier.backbones.efficientnet_lite import EMBEDDING, EfficientNetLite
from image_classifier.backbones.weights import open_shipped
from image_classifier.datasets import DataRequest, Dataset, DatasetPart, prepare, split_validation
from image_classifier.images import CROP
from image_classifier.package import Images, Probabilities
from image_classifier.settings import Recipe, Settings, load_settings, pick
from image_classifier.steps.train import choose_model, choose_photo_framing
from image_classifier.training import SINGLE_PROCESS, Plan, fit
from image_classifier.training.network import Classifier

VALIDATION_FRACTION = 0.1
BATCH = 32
PEER_RATE, PEER_MOMENTUM, PEER_DECAY = 0.01, 0.9, 1e-4

Predict = Callable[[Images], Probabilities]
Measured = tuple[float, float]
"""Test accuracy and seconds."""


def accuracy(predict: Predict, part: DatasetPart) -> float:
    right = [
        predict(np.asarray(part.images[start : start + BATCH])).argmax(1) == part.labels[start : start + BATCH]
        for start in range(0, len(part.labels), BATCH)
    ]
    return float(np.concatenate(right).mean())


class Photos:
    """A data set at every size that is asked for, restricted to some classes and images."""

    def __init__(self, settings: Settings, classes: list[str], images: int) -> None:
        self.settings, self._classes, self._images = settings, classes, images

    def at(self, size: int, framing: str = CROP) -> Dataset:
        return self._restricted(prepare(pick(self.settings, DataRequest, image_size=size, framing=framing)))

    def _restricted(self, dataset: Dataset) -> Dataset:
        if self._classes:
            dataset = with_classes(dataset, self._classes)
        if self._images and self._images < len(dataset.train.labels):
            order = np.random.default_rng(0).permutation(len(dataset.train.labels))
            dataset = with_rows(dataset, np.sort(order[: self._images]))
        return dataset


def with_rows(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """The data set with these rows of its training part alone."""
    validation = dataset.validation_rows
    kept = None if validation is None else np.flatnonzero(np.isin(rows, validation))
    return replace(dataset, train=part_of(dataset.train, rows), validation_rows=kept)


def with_classes(dataset: Dataset, classes: list[str]) -> Dataset:
    labels = [dataset.classes.index(name) for name in classes]
    dataset = with_rows(dataset, np.flatnonzero(np.isin(dataset.train.labels, labels)))
    test = part_of(dataset.test, np.flatnonzero(np.isin(dataset.test.labels, labels)))

    def renumbered(part: DatasetPart) -> DatasetPart:
        return replace(part, labels=np.array([labels.index(label) for label in part.labels]))

    return replace(dataset, classes=tuple(classes), train=renumbered(dataset.train), test=renumbered(test))


def part_of(part: DatasetPart, rows: np.ndarray) -> DatasetPart:
    originals = None if part.originals is None else part.originals[rows]
    names = [part.names[row] for row in rows.tolist()]
    return DatasetPart(part.images[rows], part.labels[rows], names, part.hashes[rows], originals)


def ours(photos: Photos, seed: int, budget: float) -> tuple[Measured, str]:
    """As `train` does it; also the backbone that it chose."""
    settings = replace(photos.settings, seed=seed, budget=budget)
    dataset = photos.at(next(iter(SHIPPED.values())).image_size)
    choice = choose_model(settings, None, dataset, SINGLE_PROCESS, log)
    framing = choose_photo_framing(settings, choice, dataset, SINGLE_PROCESS, log)
    dataset = photos.at(choice.image_size, framing.framing)
    measured = train(dataset, seed, budget, choice.backbone, framing.seconds)
    return measured, choice.backbone.name if choice.backbone else "none"


def log(line: str) -> None:
    print(line, file=sys.stderr)


def train(dataset: Dataset, seed: int, budget: float, backbone: Backbone | None, spent: float = 0.0) -> Measured:
    plan = Plan(budget, seed, VALIDATION_FRACTION, Recipe(), available_cpus(), backbone=backbone, spent=spent)
    trained = fit(dataset, plan)
    classifier = trained.classifier
    if not isinstance(classifier, Classifier):
        return accuracy(classifier.probabilities, dataset.test), trained.seconds

    @torch.inference_mode()
    def predict(images: Images) -> Probabilities:
        return classifier(torch.tensor(images)).numpy()

    return accuracy(predict, dataset.test), trained.seconds


def normalized(images: Images) -> Tensor:
    return (torch.tensor(images).permute(0, 3, 1, 2).float() - 127) / 128


def batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def frozen_features(dataset: Dataset, backbone: str) -> Measured:
    """(a): trained on the training and validation images together, as it chooses nothing."""
    torch.set_num_threads(available_cpus())
    network = open_shipped(SHIPPED[backbone])

    @torch.inference_mode()
    def features(images: Images) -> np.ndarray:
        return network(normalized(images)).mean((2, 3)).numpy()

    started = time.perf_counter()
    rows = np.arange(len(dataset.train.labels))
    train_features = np.concatenate([features(dataset.train.images[chunk]) for chunk in batches(rows)])
    model = LogisticRegression(max_iter=1_000).fit(train_features, dataset.train.labels)
    seconds = time.perf_counter() - started
    return accuracy(lambda images: model.predict_proba(features(images)), dataset.test), seconds


class FineTuned(nn.Module):
    """The network with a new last layer."""

    def __init__(self, network: EfficientNetLite, classes: int) -> None:
        super().__init__()
        self.network = network.requires_grad_(True)
        self.head = nn.Linear(EMBEDDING, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.network(images).mean((2, 3)))
        return logits


def fine_tuned(dataset: Dataset, backbone: str, seed: int, budget: float) -> Measured:
    """(b): SGD with a rate that falls along a half cosine over the budget, and horizontal flips."""
    torch.manual_seed(seed)
    torch.set_num_threads(available_cpus())
    model = FineTuned(open_shipped(SHIPPED[backbone]), len(dataset.classes))
    optimizer = torch.optim.SGD(model.parameters(), PEER_RATE, PEER_MOMENTUM, weight_decay=PEER_DECAY)
    random = np.random.default_rng(seed)
    rows = np.arange(len(dataset.train.labels))
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < budget:
        for chunk in batches(random.permutation(rows)):
            images = normalized(dataset.train.images[np.sort(chunk)])
            images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
            loss = F.cross_entropy(model(images), torch.from_numpy(dataset.train.labels[np.sort(chunk)]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (spent := time.perf_counter() - started) >= budget:
                break
            for group in optimizer.param_groups:
                group["lr"] = PEER_RATE * (1 + np.cos(np.pi * spent / budget)) / 2
    seconds = time.perf_counter() - started

    @torch.inference_mode()
    def predict(images: Images) -> Probabilities:
        return model(normalized(images)).softmax(1).numpy()

    return accuracy(predict, dataset.test), seconds


def few_shots(photos: Photos, shots: int, draws: int) -> dict[str, list[Measured]]:
    """Ours and (a), trained on `shots` photos of each class; each draw takes other photos."""
    backbone = SHIPPED["efficientnet-lite2"]
    dataset = photos.at(backbone.image_size)
    results: dict[str, list[Measured]] = {"image-classifier": [], "(a) frozen features": []}
    usable, _ = split_validation(dataset, VALIDATION_FRACTION, 0)
    for draw in range(draws):
        random = np.random.default_rng(draw)
        labels = dataset.train.labels
        chosen = [random.permutation(usable[labels[usable] == label])[:shots] for label in np.unique(labels)]
        few = replace(with_rows(dataset, np.sort(np.concatenate(chosen))), validation_rows=None)
        results["image-classifier"].append(train(few, draw, photos.settings.budget, backbone))
        results["(a) frozen features"].append(frozen_features(few, backbone.name))
    return results


def print_row(name: str, budget: str, measured: list[Measured], note: str = "") -> None:
    accuracies, seconds = ([each[place] for each in measured] for place in (0, 1))
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    tested = f"**{statistics.mean(accuracies):.1%}** ± {spread:.1%}"
    print(f"| {name} | {budget} | {statistics.mean(seconds):.1f} s | {tested} | {note} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--budget", action="append", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peers", action="store_true", help="also measure what a user would write instead")
    parser.add_argument("--classes", nargs="+", default=[], help="use these classes alone")
    parser.add_argument("--train-images", type=int, default=0, help="use so many images of the training part; 0: all")
    parser.add_argument("--shots", type=int, nargs="+", default=[], help="train on so many photos of each class")
    parser.add_argument("--draws", type=int, default=10)
    arguments = parser.parse_args()
    print(f"`{' '.join(['python', *sys.argv])}`")
    print(f"{platform.processor() or platform.machine()}, {available_cpus()} CPUs, torch {torch.__version__}\n")
    print("| | budget | time | test accuracy | |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings({"data": arguments.data, "home": home, "budget": "60s"}, {})
        photos = Photos(settings, arguments.classes, arguments.train_images)
        for shots in arguments.shots:
            for name, measured in few_shots(photos, shots, arguments.draws).items():
                print_row(name, "60s", measured, f"{shots} photos a class")
        for text in arguments.budget:
            budget = load_settings({"budget": text}, {}).budget
            runs = [ours(photos, seed, budget) for seed in arguments.seeds]
            print_row("image-classifier", text, [run[0] for run in runs], ", ".join(sorted({run[1] for run in runs})))
            if not arguments.peers:
                continue
            backbone = runs[0][1] if runs[0][1] != "none" else next(iter(SHIPPED))
            same = photos.at(SHIPPED[backbone].image_size)
            print_row("(a) frozen features", "–", [frozen_features(same, backbone)], backbone)
            at_224 = photos.at(224)
            tuned = [fine_tuned(at_224, backbone, seed, budget) for seed in arguments.seeds]
            print_row("(b) fine-tuning of all layers", text, tuned, backbone)
            scratch = [train(photos.at(64), seed, budget, None) for seed in arguments.seeds]
            print_row("(c) network from scratch", text, scratch)


if __name__ == "__main__":
    main()
