"""Small data sets of real encoded images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from image_classifier.datasets import DataRequest, Dataset, prepare
from image_classifier.datasets.public_datasets import PUBLIC_DATASETS, PublicDataset

HOME = "home"


def encoded(seed: int, side: int = 12, format: str = "PNG", width: int = 0) -> bytes:
    """A random image, different for each seed; square unless a width is given."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, width or side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def files(
    classes: str = "cat dog", count: int = 10, prefix: str = "", seed: int = 0, **options: int
) -> dict[str, bytes]:
    """Content by relative path, of `count` images per class."""
    return {
        f"{prefix}{name}/{index:03}.png": encoded(seed + 1000 * place + index, **options)
        for place, name in enumerate(classes.split())
        for index in range(count)
    }


def write(root: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def request_for(
    data: object,
    tmp_path: Path,
    *,
    image_size: int = 0,
    photo_size: int = 0,
    max_data: int = 10**9,
    fetch_timeout: float = 60,
    mirror: str = "auto",
    test_fraction: float = 0.2,
    test_part: str = "auto",
    **options: str,
) -> DataRequest:
    """The request for the data set `data`; `options` are `layout`, `labels`, `label_column` and `framing`."""
    return DataRequest(
        home=tmp_path / HOME,
        data=str(data),
        image_size=image_size,
        photo_size=photo_size,
        max_pixels=10**7,
        max_data=max_data,
        test_fraction=test_fraction,
        fetch_timeout=fetch_timeout,
        mirror=mirror,
        test_part=test_part,
        **options,
    )


def prepared(data: object, tmp_path: Path, public: dict[str, PublicDataset] | None = None, **options: Any) -> Dataset:
    """The data set `data`; `options` are those of `request_for`."""
    return prepare(request_for(data, tmp_path, **options), public or PUBLIC_DATASETS)


def cached_files(tmp_path: Path) -> list[str]:
    """Relative paths of the files in the cache, except downloads."""
    root = tmp_path / HOME / "cache"
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "fetched" not in str(path)
    )
