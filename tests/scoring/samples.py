"""Images of plain colours, which the colour model tells apart, and what was scored of them."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from image_classifier.package.package import Package
from image_classifier.scoring.batch_scoring import score_source
from image_classifier.scoring.summary import Summary
from image_classifier.settings import Settings
from tests.conftest import COLOURS


def encoded(colour: str, side: int = 24) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def colours(count: int) -> list[str]:
    """The names of `count` colours, in turn."""
    names = list(COLOURS)
    return [names[number % len(names)] for number in range(count)]


def write_table(
    path: Path, names: list[str], *, labels: list[str] | None = None, group: int = 64, side: int = 24
) -> Path:
    """A parquet file with an image of each colour that is named."""
    images = {name: encoded(name, side) for name in set(names)}
    columns = {"image": pa.array([images[name] for name in names], pa.binary())}
    if labels is not None:
        columns["label"] = pa.array(labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def scored(data: Path, package: Path, tmp_path: Path, **settings: Any) -> tuple[Summary, list[str]]:
    """Score into tmp_path/scores; the summary, and what was reported."""
    lines: list[str] = []
    given = {"data": str(data), "to": str(tmp_path / "scores"), "home": tmp_path / "home", **settings}
    return score_source(Settings(**given), Package.read(package), lines.append), lines


def rows(folder: Path) -> list[dict[str, Any]]:
    """What a reader of parquet folders finds, in order."""
    found: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
