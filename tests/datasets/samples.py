"""Small data sets for the tests of this folder, made of real encoded images."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from image_classifier.datasets import prepare
from image_classifier.datasets.dataset import Dataset
from image_classifier.settings import Settings

HOME = "home"


def encoded(number: int, side: int = 12, format: str = "PNG") -> bytes:
    """An image that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def files(
    classes: str = "cat dog", count: int = 10, prefix: str = "", start: int = 0, **options: int
) -> dict[str, bytes]:
    """Relative path to content: `count` images a class."""
    return {
        f"{prefix}{name}/{index:03}.png": encoded(start + 1000 * place + index, **options)
        for place, name in enumerate(classes.split())
        for index in range(count)
    }


def write(root: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def prepared(data: object, tmp_path: Path, **settings: object) -> Dataset:
    return prepare(Settings(data=str(data), home=tmp_path / HOME, **settings))


def left_in_cache(tmp_path: Path) -> list[str]:
    """What lies in the cache beside what was fetched."""
    root = tmp_path / HOME / "cache"
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and "fetched" not in str(path)
    )
