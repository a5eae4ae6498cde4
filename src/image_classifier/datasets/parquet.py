"""Parquet files in the Hugging Face layout: an image column of encoded bytes and a label column."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.folder import part_of
from image_classifier.datasets.image_source import (
    LARGEST_ENCODED,
    NO_CLASS,
    ImageSource,
    Item,
    counted,
    listed,
)
from image_classifier.errors import DataError, ImageError

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels")
_BATCH = 256


@dataclass(frozen=True)
class RowGroup:
    """The images of one row group; read in batches, so that a large group costs no more memory."""

    path: str
    group: int
    count: int
    column: str
    """The image column; of a struct, its field `bytes`."""

    def read(self) -> Iterator[Item]:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        with _readable(Path(self.path)), pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_BATCH, row_groups=[self.group], columns=[self.column]):
                column = batch.column(0)
                if self.column.endswith(".bytes"):
                    column = pc.struct_field(column, "bytes")
                for value in column.to_pylist():
                    if value is None:
                        yield ImageError("the row has no bytes")
                    elif len(value) > LARGEST_ENCODED:
                        yield ImageError(f"the image has more than {LARGEST_ENCODED // 2**20} MiB")
                    else:
                        yield value


@dataclass(frozen=True)
class _Table:
    """What one file tells without its images."""

    shards: list[RowGroup]
    labels: list[Any]
    names: list[str]
    classes: tuple[str, ...]
    part: str | None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors into a DataError that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is damaged or no parquet file: {reason}") from None


def read_parquet(files: Sequence[Path], *, labels_needed: bool = True) -> ImageSource:
    """The images of parquet files; names such as train-*.parquet and test-*.parquet tell the parts.

    Raises DataError where a file cannot be read or has no image column, or no label column where labels are needed.
    """
    tables = [_read_table(path, labels_needed) for path in files]
    classes, labels, warnings = _labels(tables, listed([str(path) for path in files], 1))
    joined = sum(len(table.labels) for table in tables if table.part == "validation")
    if not labels_needed:
        # They tell what is left out of the data set, and nothing is.
        warnings = []
    elif joined:
        warnings.append(f"{counted(joined, 'image')} of the validation part joined to the training part")
    return ImageSource(
        classes=classes,
        shards=tuple(shard for table in tables for shard in table.shards),
        labels=labels,
        in_test=np.repeat(
            [table.part == "test" for table in tables], [len(table.labels) for table in tables]
        ),
        names=[name for table in tables for name in table.names],
        mirror=None,
        warnings=tuple(warnings),
    )


def _read_table(path: Path, labels_needed: bool) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        image = _column(path, schema.names, IMAGE_COLUMNS)
        label = _column(path, schema.names, LABEL_COLUMNS, needed=labels_needed)
        kind = schema.field(image).type
        paths = []
        if pa.types.is_struct(kind):
            fields = [kind.field(index).name for index in range(kind.num_fields)]
            if "bytes" not in fields:
                raise DataError(f"{path}: the column {image!r} has no field 'bytes', only {listed(fields)}")
            if "path" in fields:
                paths = [row["path"] for row in file.read(columns=[f"{image}.path"]).column(0).to_pylist()]
        elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise DataError(f"{path}: the column {image!r} holds {kind}, but must hold encoded images")
        if label and not _is_label(pa, schema.field(label).type):
            if labels_needed:
                raise DataError(
                    f"{path}: the column {label!r} holds {schema.field(label).type}, but must hold one class a row"
                )
            label = ""
        leaf = f"{image}.bytes" if pa.types.is_struct(kind) else image
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        rows = file.metadata.num_rows
        values = file.read(columns=[label]).column(0).to_pylist() if label else [None] * rows
        paths = paths or [None] * rows
        return _Table(
            shards=[RowGroup(str(path), group, count, leaf) for group, count in enumerate(groups)],
            labels=values,
            names=[name or f"{path.name} row {row}" for row, name in enumerate(paths)],
            classes=_class_names(schema.metadata, label),
            part=_part(path),
        )


def _is_label(pa: Any, kind: Any) -> bool:
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(kind) or pa.types.is_string(text) or pa.types.is_large_string(text))


def _column(path: Path, present: Sequence[str], wanted: Sequence[str], *, needed: bool = True) -> str:
    """The first wanted column that is present; "" where there is none and none is needed."""
    for name in wanted:
        if name in present:
            return name
    if not needed:
        return ""
    raise DataError(f"{path} has no column {' or '.join(map(repr, wanted))}; it has {listed(present)}")


def _part(path: Path) -> str | None:
    """From a name such as test-00000-of-00001.parquet, or from the folder that the file lies in."""
    return part_of(re.split(r"[-_.]", path.name, maxsplit=1)[0]) or part_of(path.parent.name)


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...]:
    """The names that the Hugging Face metadata gives the integers of the label column, if any."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(map(str, names))
    except (KeyError, TypeError, ValueError):
        return ()


def _labels(tables: Sequence[_Table], origin: str) -> tuple[tuple[str, ...], NDArray[np.int64], list[str]]:
    """Classes, labels with NO_CLASS where a row has none, and warnings on those rows."""
    values = [value for table in tables for value in table.labels]
    names = [name for table in tables for name in table.names]
    classes = next((table.classes for table in tables if table.classes), ())
    if any(table.classes not in ((), classes) for table in tables):
        raise DataError(f"{origin}: the files name different classes; they are not parts of one data set")
    given = {value for value in values if value is not None}
    if len({type(value) for value in given}) > 1:
        raise DataError(f"{origin}: the labels are numbers in one file and text in another")
    if classes and all(isinstance(value, int) for value in given):
        index = {number: number for number in range(len(classes))}
    else:
        index = {value: number for number, value in enumerate(sorted(given))}
        classes = tuple(map(str, index))
    labels = np.array([index.get(value, NO_CLASS) for value in values], dtype=np.int64)
    warnings = []
    missing = [name for name, value in zip(names, values, strict=True) if value is None]
    if missing:
        warnings.append(f"{counted(len(missing), 'image')} left out, having no label: {listed(missing)}")
    outside = [name for name, v in zip(names, values, strict=True) if v is not None and v not in index]
    if outside:
        warnings.append(
            f"{counted(len(outside), 'image')} left out, having a label outside of 0 to {len(classes) - 1}: "
            f"{listed(outside)}"
        )
    return classes, labels, warnings
