"""The step `data`: prepare the data set."""

from dataclasses import replace

from image_classifier.datasets import DataRequest, Dataset, prepare
from image_classifier.settings import Settings, pick
from image_classifier.text import Report


def data(settings: Settings, report: Report, *, image_size: int | None = None) -> Dataset:
    """Fetch, decode, check and cache the data set, at another `image_size` than the setting's if given."""
    request = pick(settings, DataRequest)
    if image_size is not None:
        request = replace(request, image_size=image_size)
    dataset = prepare(request)
    for warning in dataset.warnings:
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
    return dataset
