"""The command `predict`: local inference on image files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from image_classifier.errors import ImageError
from image_classifier.images import decode
from image_classifier.package import Model, top_classes
from image_classifier.process import available_cpus
from image_classifier.settings import Settings
from image_classifier.steps.model_access import fetch_model
from image_classifier.text import Report


def predict(
    settings: Settings, paths: Sequence[Path], report: Report
) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """For each image file, its `top` classes with their probabilities, the most probable first.

    Raises ImageError, which names the file, for one that cannot be read or decoded.
    """
    package = fetch_model(settings, report)
    model = Model.load(package, available_cpus())
    for path in paths:
        try:
            image = decode(path.read_bytes(), package.image_size, settings.max_pixels, package.framing)
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror}") from error
        except ImageError as error:
            raise type(error)(f"{path}: {error}") from error
        probabilities = model.probabilities(image[np.newaxis])[0]
        yield path, top_classes(probabilities, model.classes, settings.top)
