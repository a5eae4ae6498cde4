"""Data format: parquet files in the Hugging Face layout, with a column of encoded images and a column of labels."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.image_source import UNLABELED, ImageSource, StoredImage, limit_encoded_size
from image_classifier.datasets.label_table import is_label_header
from image_classifier.datasets.layout import is_image, is_system_file, parts_of_files
from image_classifier.errors import DataError, ImageError
from image_classifier.text import counted, listed, one_line

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels")
_FILE_OF_SEVERAL = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.parquet")
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
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        with _pyarrow_errors(Path(self.path)), pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[self.group], columns=[self.column]):
                column = batch.column(0)
                if pa.types.is_struct(column.type):
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


@contextmanager
def _pyarrow_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error)
        raise DataError(f"{path} is damaged or not a parquet file: {reason}") from None


def dataset_tables(root: Path, paths: Sequence[str]) -> list[Path]:
    """The parquet files of a folder that hold its images: none if there are more image files than rows with images.

    paths: relative paths of all files of the folder.
    """
    names = [name for name in paths if name.endswith(".parquet") and not is_system_file(name)]
    tables, images = [root / name for name in names], sum(map(is_image, paths))
    if not images:
        return tables
    rows = {path: count for path in tables if (count := _count_images(path))}
    return list(rows) if sum(rows.values()) >= images else []


def with_warning_about_images(source: ImageSource, skipped: Sequence[str]) -> ImageSource:
    """Returns the source of parquet files with a warning that names the image files next to them."""
    if not skipped:
        return source
    warning = f"skipped {counted(len(skipped), 'image file')} next to the parquet files: {listed(skipped)}"
    return replace(source, warnings=(*source.warnings, warning))


def read_parquet(files: Sequence[Path], *, labels_needed: bool = True, label_column: str = "") -> ImageSource:
    """Find the images of parquet files; names such as train-*.parquet mark the parts.

    label_column: the column of labels; "" for the one that the files name or describe as such.
    Raises DataError if a file cannot be read, has no image column, or has no label column although labels are needed.
    """
    parts_of_tables = parts_of_files([str(path) for path in files])
    tables = [
        _read_table(path, part, labels_needed, label_column) for path, part in zip(files, parts_of_tables, strict=True)
    ]
    classes, labels, warnings = _labels(tables, listed([str(path) for path in files], 1))
    parts = np.repeat(parts_of_tables, [len(table.labels) for table in tables])
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
        warnings=(*_missing_files(files), *warnings),
    )


def _missing_files(files: Sequence[Path]) -> list[str]:
    """Warnings about data sets of several files, such as train-00000-of-00005.parquet, of which some are missing."""
    present: dict[tuple[Path, str, int], int] = {}
    for path in files:
        if match := _FILE_OF_SEVERAL.fullmatch(path.name):
            key = (path.parent, match[1], int(match[3]))
            present[key] = present.get(key, 0) + 1
    return [
        f"only {count:,} of {counted(total, 'file')} {prefix}-*-of-{total:05}.parquet are there"
        for (_, prefix, total), count in present.items()
        if count < total
    ]


def _count_images(path: Path) -> int:
    """Number of rows of a parquet file with a column of encoded images; 0 for any other file."""
    import pyarrow.parquet as pq

    try:
        with _pyarrow_errors(path), pq.ParquetFile(path) as file:
            _image_column(path, file.schema_arrow)
            return int(file.metadata.num_rows)
    except DataError:
        return 0


def _read_table(path: Path, part: str, labels_needed: bool, label_column: str) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _pyarrow_errors(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        image = _image_column(path, schema)
        rows = file.metadata.num_rows
        names: list[str | None] = [None] * rows
        leaf = image
        image_type = schema.field(image).type
        if pa.types.is_struct(image_type):
            leaf = f"{image}.bytes"
            if image_type.get_field_index("path") >= 0:
                names = [row and row["path"] for row in file.read(columns=[f"{image}.path"]).column(0).to_pylist()]
        label, values = "", [None] * rows
        if part != "unlabeled":
            try:
                label = label_column or _find_label_column(path, schema, image)
                if label not in schema.names:
                    raise _without_labels(path, label, schema)
                column = file.read(columns=[label]).column(0).combine_chunks()
                values = label_values(column, f"{path}: the column {label!r}")
            except DataError:
                if labels_needed:
                    raise
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        return _Table(
            shards=[RowGroup(str(path), group, count, leaf) for group, count in enumerate(groups)],
            labels=values,
            names=[name or f"{path.name} row {row}" for row, name in enumerate(names)],
            classes=_class_names(_features(schema).get(label)),
        )


def _image_column(path: Path, schema: Any) -> str:
    """The column of encoded images: `image` or `img`, else the only one that is binary or a struct with `bytes`."""
    named = [name for name in IMAGE_COLUMNS if name in schema.names]
    holding = [field.name for field in schema if _holds_images(field.type) and not is_label_header(field.name)]
    column = next((name for name in named if name in holding), holding[0] if len(holding) == 1 and not named else "")
    if column:
        return column
    if named:
        raise DataError(
            f"{path}: the column {named[0]!r} has the type {schema.field(named[0]).type}, but must hold encoded "
            "images, as bytes or in a field 'bytes'"
        )
    found = f"several columns of images ({listed(holding)})"
    if not holding:
        found = f"no column of encoded images, only {listed(schema.names, 20)}"
    raise DataError(f"{path} has {found}; name the column of encoded images 'image'")


def _holds_images(column_type: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(column_type):
        place = column_type.get_field_index("bytes")
        return place >= 0 and _is_binary(column_type.field(place).type)
    return _is_binary(column_type)


def _is_binary(column_type: Any) -> bool:
    import pyarrow as pa

    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(is_kind(column_type) for is_kind in kinds)


def _find_label_column(path: Path, schema: Any, image: str) -> str:
    """The column of labels: `label` or `labels`, else the only one that the file describes or names as one."""
    others = [name for name in schema.names if name != image]
    for candidates in (
        [name for name in LABEL_COLUMNS if name in others][:1],
        [name for name, feature in _features(schema).items() if name in others and _class_names(feature)],
        [name for name in others if is_label_header(name)],
    ):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise DataError(f"{path}: several columns may hold the labels: {listed(candidates)}; set label_column")
    raise _without_labels(path, LABEL_COLUMNS[0], schema)


def _without_labels(path: Path, label: str, schema: Any) -> DataError:
    return DataError(f"{path} has no column {label!r}, only {listed(schema.names, 20)}; set label_column")


def label_values(column: Any, origin: str) -> list[Any]:
    """The label of each row of an Arrow array: an int, a text, or None if there is none. `origin`: for messages.

    Booleans become the texts False and True, whole floating-point numbers integers, and lists of one label the label.
    Raises DataError if the column does not hold one class per row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        return label_values(column.dictionary_decode(), origin)
    if any(is_list(kind) for is_list in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        rows = column.to_pylist()
        several = sum(row is not None and len(row) > 1 for row in rows)
        if several:
            raise DataError(
                f"{origin} has several labels in {counted(several, 'row')}, but must hold one class per row"
            )
        return label_values(pa.array([row[0] if row else None for row in rows], kind.value_type), origin)
    if pa.types.is_boolean(kind):
        return [None if value is None else str(value) for value in column.to_pylist()]
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = [None if value is None or value != value else value for value in column.to_pylist()]
        fraction = next((value for value in numbers if value is not None and value % 1 != 0), None)
        if fraction is not None:
            raise DataError(f"{origin} holds numbers such as {fraction}, but must hold one class per row")
        return [None if value is None else int(value) for value in numbers]
    if _is_binary(kind):
        try:
            column = pc.cast(column, pa.large_string())
        except pa.ArrowInvalid:
            raise DataError(f"{origin} holds bytes that are not text, but must hold one class per row") from None
        kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_null(kind) or _is_text(kind)):
        raise DataError(f"{origin} has the type {kind}, but must hold one class per row")
    values: list[Any] = column.to_pylist()
    return [None if isinstance(value, str) and not value.strip() else value for value in values]


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _features(schema: Any) -> dict[str, Any]:
    """The descriptions of the columns in the Hugging Face metadata; {} without metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> tuple[str, ...]:
    """The class names of a column's description, also of a list of labels; () if it has none."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return ()
    names = feature.get("names")
    return tuple(map(str, names)) if isinstance(names, list) else _class_names(feature.get("feature"))


def _labels(tables: Sequence[_Table], origin: str) -> tuple[tuple[str, ...], NDArray[np.int64], list[str]]:
    """Classes, labels (UNLABELED for a row without a usable one), and warnings about those rows."""
    values = [value for table in tables for value in table.labels]
    names = [name for table in tables for name in table.names]
    classes = next((table.classes for table in tables if table.classes), ())
    for table in tables:
        if table.classes not in ((), classes):
            place = next(place for place, pair in enumerate(zip_longest(classes, table.classes)) if pair[0] != pair[1])
            first, other = (listed(names[place : place + 1]) or "none" for names in (classes, table.classes))
            raise DataError(
                f"{origin}: the files have different classes, so they are not one data set: class {place} is {first} "
                f"in one and {other} in another"
            )
    distinct = {value for value in values if value is not None}
    if len({type(value) for value in distinct}) > 1:
        raise DataError(f"{origin}: the labels are numbers in one file and text in another")
    range_text = "below 0"
    if classes and all(isinstance(value, int) for value in distinct):
        index = {number: number for number in range(len(classes))}
        range_text = f"outside of 0 to {len(classes) - 1}"
    else:
        # -1 stands for an unknown class, unless it is the other one of two.
        valid = (
            distinct if distinct == {-1, 1} else {value for value in distinct if isinstance(value, str) or value >= 0}
        )
        index = {value: number for number, value in enumerate(sorted(valid))}
        classes = tuple(map(str, index))
    labels = np.array([index.get(value, UNLABELED) for value in values], dtype=np.int64)
    warnings = []
    missing = [name for name, value in zip(names, values, strict=True) if value is None]
    if missing:
        warnings.append(f"skipped {counted(len(missing), 'image')} without a label: {listed(missing)}")
    outside = [name for name, v in zip(names, values, strict=True) if v is not None and v not in index]
    if outside:
        warnings.append(f"skipped {counted(len(outside), 'image')} with a label {range_text}: {listed(outside)}")
    return classes, labels, warnings
