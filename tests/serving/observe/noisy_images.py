"""Images with enough variation for drift detection."""

import numpy as np

from tests.conftest import COLORS, SIZE


def noisy_images(count, seed=0):
    """Different images of the four colors; uint8 [count, SIZE, SIZE, 3]."""
    random = np.random.default_rng(seed)
    colors = np.array(list(COLORS.values()))[random.integers(4, size=count)][:, None, None]
    mixed = 0.7 * colors + random.integers(0, 70, (count, 1, 1, 3))
    return np.clip(mixed + random.normal(0, 8, (count, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
