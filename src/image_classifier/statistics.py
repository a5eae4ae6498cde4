"""What images and answers look like in the mass, so that a server can notice when they change."""

from typing import Any

import numpy as np

from image_classifier.package import Images, Probabilities

QUANTILES = tuple(round(0.05 * step, 2) for step in range(21))


def image_statistics(images: Images) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Brightness, contrast (both in 0..1) and sharpness of each image of uint8 [N, S, S, 3]; float64 [N].

    Sharpness is the mean absolute difference of neighbouring pixels.
    """
    grey = images.mean(axis=3, dtype=np.float32) / 255
    steps_down = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2))
    steps_right = np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    return {
        "brightness": grey.mean(axis=(1, 2)).astype(np.float64),
        "contrast": grey.std(axis=(1, 2)).astype(np.float64),
        "sharpness": ((steps_down + steps_right) / 2).astype(np.float64),
    }


def reference_statistics(images: Images, probabilities: Probabilities) -> dict[str, Any]:
    """The reference of a package: quantiles of each image statistic and of the confidence, class shares."""
    statistics = image_statistics(images)
    statistics["confidence"] = probabilities.max(axis=1).astype(np.float64)
    shares = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]) / len(images)
    return {
        "images": len(images),
        "quantiles": QUANTILES,
        "statistics": {name: np.quantile(values, QUANTILES).tolist() for name, values in statistics.items()},
        "predicted_shares": shares.tolist(),
    }
