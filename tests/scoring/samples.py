"""Single-color images, which the color model classifies, and their scores."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from image_classifier.package.package import Package
from image_classifier.scoring.batch_scoring import ScoreRequest, Summary, score_source
from image_classifier.settings import Settings, pick
from tests.conftest import COLORS


def encoded(color: str, side: int = 24) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), COLORS[color]).save(buffer, "PNG")
    return buffer.getvalue()


def cycled_colors(count: int) -> list[str]:
    """The names of the colors, repeated to `count` names."""
    names = list(COLORS)
    return [names[number % len(names)] for number in range(count)]


def write_table(
    path: Path, names: list[str], *, labels: list[str] | None = None, group: int = 64, side: int = 24
) -> Path:
    """A parquet file with an image of each named color."""
    images = {name: encoded(name, side) for name in set(names)}
    columns = {"image": pa.array([images[name] for name in names], pa.binary())}
    if labels is not None:
        columns["label"] = pa.array(labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def score_into(tmp_path: Path, data: Path, package: Path, to: str = "", **settings: Any) -> tuple[Summary, list[str]]:
    """Score into `to`, or into tmp_path/scores; returns the summary, and the reported lines."""
    lines: list[str] = []
    request = pick(Settings(home=tmp_path / "home", **settings), ScoreRequest, data=str(data))
    request = replace(request, to=to or str(tmp_path / "scores"))
    return score_source(request, Package.read(package), lines.append), lines


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows that a reader of parquet folders finds, in order."""
    table: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return table


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
