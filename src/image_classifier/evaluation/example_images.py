"""The example images of a report, encoded, so that the report can be written without the data set."""

import base64
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from image_classifier.datasets import Dataset
from image_classifier.evaluation.corruptions import CORRUPTIONS
from image_classifier.evaluation.evaluation import Evaluation
from image_classifier.evaluation.label_errors import LabelErrors
from image_classifier.evaluation.training_data import TrainingData
from image_classifier.package import Images, Probabilities

_MAX_CONFUSIONS, _MAX_DUPLICATES = 24, 12
_MAX_SIDE = 96  # pixels
_SEED = 0


@dataclass(frozen=True)
class Picture:
    """An image with its caption."""

    png: str
    """In base64."""
    lines: tuple[str, ...]
    """The caption."""
    name: str = ""
    """Where the image comes from in the data set; "" for a corrupted one."""


@dataclass(frozen=True)
class Pictures:
    """The example images by what they show. The field names are those of the stored JSON."""

    mistakes: tuple[Picture, ...]
    """For each of the most frequent confusions, the most confident mistake."""
    suspects: tuple[Picture, ...]
    """The most probable label errors."""
    duplicates: tuple[Picture, ...]
    """Test images next to the training image that each duplicates."""
    corruptions: tuple[Picture, ...]
    """One test image, original and under each corruption."""
    training_suspects: tuple[Picture, ...] = ()
    """The most probable label errors among the images trained on; none from an older version, like the fields below."""
    training_duplicates: tuple[Picture, ...] = ()
    """Training images next to another one that shows the same photo."""
    outliers: tuple[Picture, ...] = ()
    """Training images that are unlike all others."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Pictures":
        def picture(item: Mapping[str, Any]) -> Picture:
            return Picture(item["png"], tuple(item["lines"]), item["name"])

        return cls(**{kind: tuple(map(picture, items)) for kind, items in json.loads(text).items()})


def choose_examples(dataset: Dataset, evaluation: Evaluation, probabilities: Probabilities) -> Pictures:
    """Choose the pictures of an evaluation; `probabilities`, float32 [N, K], are its predictions for the test part."""
    return Pictures(
        mistakes=tuple(_mistakes(dataset, evaluation, probabilities)),
        suspects=tuple(_suspects(dataset, evaluation.label_errors)),
        duplicates=tuple(_duplicates(dataset, evaluation)),
        corruptions=tuple(_corruptions(dataset)),
        **_training_pictures(dataset, evaluation.training_data),
    )


def _mistakes(dataset: Dataset, evaluation: Evaluation, probabilities: Probabilities) -> Iterable[Picture]:
    labels, predictions = np.array(evaluation.labels), np.array(evaluation.predictions)
    for label, predicted, count in evaluation.top_confusions(_MAX_CONFUSIONS):
        index = evaluation.classes.index(predicted)
        rows = np.flatnonzero((labels == evaluation.classes.index(label)) & (predictions == index))
        row = int(rows[probabilities[rows, index].argmax()])
        images = f"{count:,} image{'s' if count > 1 else ''}"
        caption = (f"{label} predicted as {predicted}", f"{images}, this one {_percent(evaluation.confidences[row])}")
        yield Picture(_encode(dataset.test.images[row]), caption, dataset.test.names[row])


def _suspects(dataset: Dataset, found: LabelErrors | None) -> Iterable[Picture]:
    for suspect in found.suspects if found else ():
        part = dataset.test if suspect.part == "test" else dataset.train
        caption = (
            f"label {suspect.label}: {_percent(suspect.self_confidence)}",
            f"predicted {suspect.suggested}: {_percent(suspect.confidence)}",
        )
        yield Picture(_encode(part.images[suspect.row]), caption, f"{suspect.part}: {suspect.name}")


def _duplicates(dataset: Dataset, evaluation: Evaluation) -> Iterable[Picture]:
    found = evaluation.duplicates
    if found is None:
        return
    test, train = dataset.test, dataset.train
    # Evenly spaced, because the rows are sorted by class.
    count = min(_MAX_DUPLICATES, len(found.rows))
    for number in np.unique(np.linspace(0, len(found.rows) - 1, count).astype(int)):
        row, original = found.rows[number], found.originals[number]
        pair = np.concatenate([test.images[row], train.images[original]], axis=1)
        labels = [dataset.classes[part.labels[i]] for part, i in ((test, row), (train, original))]
        label = labels[0] if labels[0] == labels[1] else f"{labels[0]} (test), {labels[1]} (training)"
        kind = "exact duplicate" if number < len(found.exact) else "near duplicate"
        yield Picture(_encode(pair), (label, kind), f"{test.names[row]} and {train.names[original]}")


def _training_pictures(dataset: Dataset, found: TrainingData | None) -> dict[str, tuple[Picture, ...]]:
    """The pictures of the problems of the training data, by field."""
    if found is None:
        return {}
    images = dataset.train.images
    duplicates = []
    for pair in found.pairs:
        labels = pair.label if pair.label == pair.other_label else f"{pair.label} and {pair.other_label}"
        picture = _encode(np.concatenate([images[pair.row], images[pair.other_row]], axis=1))
        duplicates.append(Picture(picture, (labels,), f"{pair.name} and {pair.other_name}"))
    outliers = [
        Picture(_encode(images[each.row]), (each.label, "blank" if each.is_blank else "unlike all others"), each.name)
        for each in found.outliers
    ]
    return {
        "training_suspects": tuple(_suspects(dataset, found.label_errors)),
        "training_duplicates": tuple(duplicates),
        "outliers": tuple(outliers),
    }


def _corruptions(dataset: Dataset) -> Iterable[Picture]:
    row = int(np.random.default_rng(_SEED).integers(len(dataset.test.labels)))
    image = dataset.test.images[row : row + 1]
    yield Picture(_encode(image[0]), ("original",), dataset.test.names[row])
    for corruption in CORRUPTIONS:
        yield Picture(_encode(corruption.apply(image)[0]), (corruption.name,))


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %"


def _encode(image: Images) -> str:
    """A PNG in base64 of uint8 [H, W, 3], reduced in size if it is large."""
    picture = Image.fromarray(image)
    # A pair of duplicates is twice as wide.
    picture.thumbnail((2 * _MAX_SIDE, _MAX_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
