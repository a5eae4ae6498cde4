"""A model put to use on this machine: asked about image files, or let loose on very many."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from image_classifier.errors import ImageError
from image_classifier.images import decode
from image_classifier.package import Model, likeliest
from image_classifier.process import available_cpus
from image_classifier.settings import Settings
from image_classifier.steps.registry_access import Report, fetch_model
from image_classifier.steps.results import clipped, leave_results

if TYPE_CHECKING:  # this brings PyArrow
    from image_classifier.scoring import Summary


def predict(
    settings: Settings, paths: Sequence[Path], report: Report
) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """For each image file, its `top` classes and their probabilities, the likeliest first."""
    model = Model.load(fetch_model(settings, report), available_cpus())
    for path in paths:
        try:
            image = decode(path.read_bytes(), model.package.image_size, settings.max_pixels)
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror}") from error
        except ImageError as error:
            raise type(error)(f"{path}: {error}") from error
        probabilities = model.probabilities(image[np.newaxis])[0]
        yield path, likeliest(probabilities, model.classes, settings.top)


def score(settings: Settings, report: Report) -> "Summary":
    """Score all images of `data`, labelled or not, into parquet files in `to`. A run that was cut off goes on."""
    from image_classifier.scoring import score_source

    summary = score_source(settings, fetch_model(settings, report), report)
    report(f"{summary.in_words}; the scores are in {settings.to}")
    leave_results(
        settings,
        {
            "verdict": "scored",
            "reason": clipped(summary.in_words),
            "images": str(summary.images),
            "unread": str(summary.unread),
        },
    )
    return summary
