"""Held-out test images with their recorded predictions, to check a deployed candidate against its evaluation."""

import base64
import json
from collections.abc import Sequence

import numpy as np

from image_classifier.images import decode
from image_classifier.package import GoldenImage, Images, Package, Probabilities, encode_png


def held_out_images(
    images: Images, labels: Sequence[str], probabilities: Probabilities, count: int = 16
) -> tuple[GoldenImage, ...]:
    """Choose evenly spaced test images, at most `count`.

    images: uint8 [N, S, S, 3]; labels: the true class of each; probabilities: float32 [N, K], the model's predictions.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))
    return tuple(
        GoldenImage(encode_png(images[index]), labels[index], tuple(map(float, probabilities[index])))
        for index in chosen
    )


def held_out_to_json(images: Sequence[GoldenImage]) -> str:
    stored = [
        {"png": base64.b64encode(image.png).decode(), "label": image.label, "probabilities": image.probabilities}
        for image in images
    ]
    return json.dumps(stored)


def held_out_from_json(content: bytes) -> tuple[GoldenImage, ...]:
    return tuple(
        GoldenImage(base64.b64decode(item["png"]), item["label"], tuple(item["probabilities"]))
        for item in json.loads(content)
    )


def decode_golden_images(package: Package) -> Images:
    """The decoded golden images of a package, uint8 [G, S, S, 3]."""
    size = package.image_size
    return np.stack([decode(golden.png, size, size * size) for golden in package.golden])
