"""The step `data`: prepare the data set."""

from dataclasses import replace

import numpy as np

from image_classifier.datasets import DataRequest, Dataset, prepare
from image_classifier.settings import Settings, pick
from image_classifier.steps.backbone import data_request
from image_classifier.text import Report, counted

_LISTED_CLASSES, _LARGEST, _SMALLEST = 25, 10, 10


def data(settings: Settings, report: Report, *, image_size: int | None = None, framing: str | None = None) -> Dataset:
    """Fetch, decode, check and cache the data set, and report its warnings and classes.

    For the data of a model, give its `image_size` and `framing`; its training has reported the warnings and classes.
    """
    settings = replace(settings, framing=framing or settings.framing)
    request = data_request(settings) if image_size is None else pick(settings, DataRequest, image_size=image_size)
    dataset = prepare(request)
    details = image_size is None
    for warning in dataset.warnings if details else ():
        report(f"warning: {warning}")
    train, test = len(dataset.train.labels), len(dataset.test.labels)
    parts = f"{train:,} training images"
    if dataset.validation_rows is not None:
        validation = len(dataset.validation_rows)
        parts = f"{train - validation:,} training images, {validation:,} validation images"
    report(
        f"data {dataset.source}: {parts} and {test:,} test images in {len(dataset.classes)} classes, "
        f"{dataset.image_size}×{dataset.image_size} pixels, digest {dataset.digest[:12]}"
    )
    for line in _class_table(dataset) if details else ():
        report(line)
    return dataset


def _class_table(dataset: Dataset) -> list[str]:
    """Lines of a table of the classes and their number of images in each part, the smallest class last.

    Of many classes only the largest and the smallest are listed. The name comes last, because its width in a terminal
    is not its number of characters.
    """
    count = len(dataset.classes)
    trained = np.bincount(dataset.train.labels, minlength=count)
    columns = {"training": trained, "test": np.bincount(dataset.test.labels, minlength=count)}
    if dataset.validation_rows is not None:
        validation = np.bincount(dataset.train.labels[dataset.validation_rows], minlength=count)
        columns = {"training": trained - validation, "validation": validation, "test": columns["test"]}
    order = np.argsort(-sum(columns.values()), kind="stable").tolist()
    width = max(map(len, columns)) + 2

    def line(cells: list[str], name: str) -> str:
        return "".join(f"{cell:>{width}}" for cell in cells) + f"  {name}"

    rows = [line([f"{column[label]:,}" for column in columns.values()], dataset.classes[label]) for label in order]
    if count > _LISTED_CLASSES:
        left_out = counted(count - _LARGEST - _SMALLEST, "class")
        rows[_LARGEST:-_SMALLEST] = [line(["…"] * len(columns), f"{left_out} between")]
    return [line(list(columns), "class"), *rows]
