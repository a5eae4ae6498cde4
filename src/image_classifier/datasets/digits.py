"""The embedded data set: 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

from pathlib import Path

import numpy as np

from image_classifier.datasets.idx import slices
from image_classifier.datasets.image_source import ImageSource

_HIGHEST = 16


def read_digits(scratch: Path) -> ImageSource:
    """The digits, grey 0..16 scaled to 0..255, written to `scratch` as plain pixels; no test part."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / _HIGHEST)).astype(np.uint8)
    path = scratch / "digits"
    pixels.tofile(path)
    count, height, width = pixels.shape
    return ImageSource(
        classes=tuple(map(str, digits.target_names)),
        shards=tuple(slices(path, 0, count, height * width, 1, height, width)),
        labels=digits.target.astype(np.int64),
        in_test=np.zeros(count, dtype=bool),
        names=[f"digits row {row}" for row in range(count)],
        mirror=False,
        warnings=(),
    )
