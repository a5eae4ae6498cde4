"""The embedded data set: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

from pathlib import Path

import numpy as np

from image_classifier.datasets.image_source import ImageSource, RawPixelShard

_MAX_VALUE = 16


def read_digits(scratch: Path) -> ImageSource:
    """Write the digits, scaled from 0..16 to 0..255, to `scratch` as raw pixels; they have no test part."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / _MAX_VALUE)).astype(np.uint8)
    path = scratch / "digits"
    pixels.tofile(path)
    count, height, width = pixels.shape
    return ImageSource(
        classes=tuple(map(str, digits.target_names)),
        shards=tuple(RawPixelShard(str(path), 0, count, height * width, 1, height, width).split()),
        labels=digits.target.astype(np.int64),
        in_test=np.zeros(count, dtype=bool),
        in_validation=np.zeros(count, dtype=bool),
        names=[f"digits row {row}" for row in range(count)],
        mirror=False,
        warnings=(),
    )
