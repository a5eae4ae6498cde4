"""Data format: parquet files in the Hugging Face layout, with a column of encoded images and a column of labels."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.folder import part_from_name
from image_classifier.datasets.image_source import UNLABELED, ImageSource, StoredImage, limit_encoded_size
from image_classifier.errors import DataError, ImageError
from image_classifier.text import counted, listed, one_line

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels")
_BATCH_ROWS = 256


@dataclass(frozen=True)
class RowGroup:
    """The images of one row group, read in batches to limit memory."""

    path: str
    group: int
    count: int
    column: str
    """The image column, or its field `bytes` if it is a struct."""

    def read(self) -> Iterator[StoredImage]:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        with _pyarrow_errors(Path(self.path)), pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[self.group], columns=[self.column]):
                column = batch.column(0)
                if self.column.endswith(".bytes"):
                    column = pc.struct_field(column, "bytes")
                for value in column.to_pylist():
                    yield ImageError("the row has no bytes") if value is None else limit_encoded_size(value)


@dataclass(frozen=True)
class _Table:
    """The content of one file, without its images."""

    shards: list[RowGroup]
    labels: list[Any]
    names: list[str]
    classes: tuple[str, ...]
    part: str | None


@contextmanager
def _pyarrow_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error)
        raise DataError(f"{path} is damaged or not a parquet file: {reason}") from None


def read_parquet(files: Sequence[Path], *, labels_needed: bool = True) -> ImageSource:
    """Find the images of parquet files; names such as train-*.parquet mark the parts.

    Raises DataError if a file cannot be read, has no image column, or has no label column although labels are needed.
    """
    tables = [_read_table(path, labels_needed) for path in files]
    classes, labels, warnings = _labels(tables, listed([str(path) for path in files], 1))
    parts = np.repeat([table.part or "" for table in tables], [len(table.labels) for table in tables])
    if not labels_needed:
        # They are about skipped images, and none is skipped.
        warnings = []
    return ImageSource(
        classes=classes,
        shards=tuple(shard for table in tables for shard in table.shards),
        labels=labels,
        in_test=parts == "test",
        in_validation=parts == "validation",
        names=[name for table in tables for name in table.names],
        mirror=None,
        warnings=tuple(warnings),
    )


def _read_table(path: Path, labels_needed: bool) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _pyarrow_errors(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        image = _find_column(path, schema.names, IMAGE_COLUMNS)
        part, label = _part(path), ""
        if part != "unlabeled":
            label = _find_column(path, schema.names, LABEL_COLUMNS, required=labels_needed)
        image_type = schema.field(image).type
        paths: list[str | None] = []
        if pa.types.is_struct(image_type):
            fields = [image_type.field(index).name for index in range(image_type.num_fields)]
            if "bytes" not in fields:
                raise DataError(f"{path}: the column {image!r} has no field 'bytes', only {listed(fields)}")
            if "path" in fields:
                paths = [row["path"] for row in file.read(columns=[f"{image}.path"]).column(0).to_pylist()]
        elif not (pa.types.is_binary(image_type) or pa.types.is_large_binary(image_type)):
            raise DataError(f"{path}: the column {image!r} has the type {image_type}, but must hold encoded images")
        if label and not _is_label_type(pa, schema.field(label).type):
            if labels_needed:
                found = f"the column {label!r} has the type {schema.field(label).type}"
                raise DataError(f"{path}: {found}, but must hold one class per row")
            label = ""
        leaf = f"{image}.bytes" if pa.types.is_struct(image_type) else image
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        unknown = [None] * file.metadata.num_rows
        values = file.read(columns=[label]).column(0).to_pylist() if label else unknown
        return _Table(
            shards=[RowGroup(str(path), group, count, leaf) for group, count in enumerate(groups)],
            labels=values,
            names=[name or f"{path.name} row {row}" for row, name in enumerate(paths or unknown)],
            classes=_class_names(schema.metadata, label),
            part=part,
        )


def _is_label_type(pa: Any, column_type: Any) -> bool:
    text = column_type.value_type if pa.types.is_dictionary(column_type) else column_type
    return bool(pa.types.is_integer(column_type) or pa.types.is_string(text) or pa.types.is_large_string(text))


def _find_column(path: Path, present: Sequence[str], names: Sequence[str], *, required: bool = True) -> str:
    """The first of `names` that is present; "" if there is none and none is required."""
    column = next((name for name in names if name in present), "")
    if required and not column:
        raise DataError(f"{path} has no column {' or '.join(map(repr, names))}; it has {listed(present)}")
    return column


def _part(path: Path) -> str | None:
    """From a name such as test-00000-of-00001.parquet, or from the folder that contains the file."""
    return part_from_name(re.split(r"[-_.]", path.name, maxsplit=1)[0]) or part_from_name(path.parent.name)


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...]:
    """The class names in the Hugging Face metadata of an integer label column; () without metadata."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(map(str, names))
    except (KeyError, TypeError, ValueError):
        return ()


def _labels(tables: Sequence[_Table], origin: str) -> tuple[tuple[str, ...], NDArray[np.int64], list[str]]:
    """Classes, labels (UNLABELED for a row without a usable one), and warnings about those rows."""
    values = [value for table in tables for value in table.labels]
    names = [name for table in tables for name in table.names]
    classes = next((table.classes for table in tables if table.classes), ())
    if any(table.classes not in ((), classes) for table in tables):
        raise DataError(f"{origin}: the files have different classes, so they are not one data set")
    distinct = {value for value in values if value is not None}
    if len({type(value) for value in distinct}) > 1:
        raise DataError(f"{origin}: the labels are numbers in one file and text in another")
    if classes and all(isinstance(value, int) for value in distinct):
        index = {number: number for number in range(len(classes))}
    else:
        index = {value: number for number, value in enumerate(sorted(distinct))}
        classes = tuple(map(str, index))
    labels = np.array([index.get(value, UNLABELED) for value in values], dtype=np.int64)
    warnings = []
    missing = [name for name, value in zip(names, values, strict=True) if value is None]
    if missing:
        warnings.append(f"skipped {counted(len(missing), 'image')} without a label: {listed(missing)}")
    outside = [name for name, v in zip(names, values, strict=True) if v is not None and v not in index]
    if outside:
        skipped = f"{counted(len(outside), 'image')} with a label outside of 0 to {len(classes) - 1}"
        warnings.append(f"skipped {skipped}: {listed(outside)}")
    return classes, labels, warnings
