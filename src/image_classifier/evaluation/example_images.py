"""The images that a report shows, small and encoded, so that it can be written where the data is not."""

import base64
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from image_classifier.datasets import Dataset
from image_classifier.evaluation.corruptions import CORRUPTIONS
from image_classifier.evaluation.evaluation import Evaluation
from image_classifier.package import Images, Probabilities

_MOST, _MOST_PAIRS = 24, 12
_LARGEST_SIDE = 96
_SEED = 0


@dataclass(frozen=True)
class Picture:
    """An image and what is said below it."""

    png: str
    """In base64."""
    lines: tuple[str, ...]
    name: str = ""
    """The file, so that it can be looked at or mended."""


@dataclass(frozen=True)
class Pictures:
    """Images by what they are shown for."""

    mistakes: tuple[Picture, ...]
    """Of each of the commonest confusions, the one that was made with the highest confidence."""
    suspects: tuple[Picture, ...]
    """The labels that are most likely wrong."""
    duplicates: tuple[Picture, ...]
    """A test image beside the training image that it shows again."""
    corruptions: tuple[Picture, ...]
    """One test image, as it is and under each corruption."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Pictures":
        kinds = json.loads(text).items()
        return cls(
            **{
                kind: tuple(Picture(item["png"], tuple(item["lines"]), item["name"]) for item in items)
                for kind, items in kinds
            }
        )


def take_pictures(dataset: Dataset, evaluation: Evaluation, probabilities: Probabilities) -> Pictures:
    """Pictures of an evaluation on the test part, with the probabilities float32 [N, K] that it gave."""
    return Pictures(
        mistakes=tuple(_mistakes(dataset, evaluation, probabilities)),
        suspects=tuple(_suspects(dataset, evaluation)),
        duplicates=tuple(_duplicates(dataset, evaluation)),
        corruptions=tuple(_corruptions(dataset)),
    )


def _mistakes(dataset: Dataset, evaluation: Evaluation, probabilities: Probabilities) -> Iterable[Picture]:
    labels, predictions = np.array(evaluation.labels), np.array(evaluation.predictions)
    for label, answer, count in evaluation.confused(_MOST):
        index = evaluation.classes.index(answer)
        rows = np.flatnonzero((labels == evaluation.classes.index(label)) & (predictions == index))
        row = int(rows[probabilities[rows, index].argmax()])
        lines = (f"{label} taken for {answer}", f"{count:,} ×, here {evaluation.confidences[row]:.0%}")
        yield Picture(_encoded(dataset.test.images[row]), lines, dataset.test.names[row])


def _suspects(dataset: Dataset, evaluation: Evaluation) -> Iterable[Picture]:
    for suspect in evaluation.label_errors.suspects if evaluation.label_errors else ():
        part = dataset.test if suspect.part == "test" else dataset.train
        lines = (
            f"labelled {suspect.label} {suspect.self_confidence:.0%}",
            f"seems {suspect.suggested} {suspect.confidence:.0%}",
        )
        yield Picture(_encoded(part.images[suspect.row]), lines, f"{suspect.part}: {suspect.name}")


def _duplicates(dataset: Dataset, evaluation: Evaluation) -> Iterable[Picture]:
    found = evaluation.duplicates
    if found is None:
        return
    test, train = dataset.test, dataset.train
    # Spread over all of them, as they lie in the order of the classes.
    numbers = np.unique(np.linspace(0, len(found.rows) - 1, min(_MOST_PAIRS, len(found.rows))).astype(int))
    for number in numbers:
        row, original = found.rows[number], found.originals[number]
        beside = np.concatenate([test.images[row], train.images[original]], axis=1)
        labels = [dataset.classes[part.labels[i]] for part, i in ((test, row), (train, original))]
        same = labels[0] if labels[0] == labels[1] else f"{labels[0]}, trained as {labels[1]}"
        kind = "exact" if number < len(found.exact) else "near"
        yield Picture(_encoded(beside), (same, kind), f"{test.names[row]} and {train.names[original]}")


def _corruptions(dataset: Dataset) -> Iterable[Picture]:
    row = int(np.random.default_rng(_SEED).integers(len(dataset.test.labels)))
    image = dataset.test.images[row : row + 1]
    yield Picture(_encoded(image[0]), ("as it is",), dataset.test.names[row])
    for corruption in CORRUPTIONS:
        yield Picture(_encoded(corruption.of(image)[0]), (corruption.name,))


def _encoded(image: Images) -> str:
    """A PNG of uint8 [H, W, 3], no higher than needed to recognise what it shows."""
    picture = Image.fromarray(image)
    # A pair of images side by side is twice as wide.
    picture.thumbnail((2 * _LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
