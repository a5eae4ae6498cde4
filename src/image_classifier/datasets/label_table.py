"""Tables of labels: CSV, TSV, JSON lines, JSON and parquet files with a column of file names and one of labels."""

import csv
import io
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from image_classifier.datasets.layout import IMAGE_SUFFIXES, comparable, parse_part_name, resolve_evaluation
from image_classifier.errors import DataError
from image_classifier.text import clip, counted, listed, one_line

MAX_TABLE_BYTES = 2**26
"""A table is read into memory, where it needs about ten times its size."""
TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet"))

_FILE_HEADERS = tuple(
    str.split(
        "file_name filename image_path img_path file_path filepath path image_name img_name imagename "
        "image_file image img image_id img_id isic_id file photo picture fname name id"
    )
)
"""Usual names of the column of file names, the most specific first; they decide only between equal columns."""
_LABEL_HEADERS = frozenset(str.split("label labels class classes category target species breed dx diagnosis y"))
_LABEL_WORDS = _LABEL_HEADERS | frozenset(str.split("name id idx index code number text str true gt ground truth fine"))
"""Words of longer names, such as `class_name` and `true_label`."""
_SPLIT_HEADERS = frozenset(str.split("split set data_set dataset partition subset part phase usage"))
_BOX_HEADERS = frozenset(str.split("xmin ymin xmax ymax bbox bboxes boxes objects bbox_x bbox_y bounding_box"))
_MISSING = frozenset(("", "nan", "null"))
_ONE, _ZERO = frozenset(("1", "1.0", "true")), frozenset(("0", "0.0", "false", ""))
_SAMPLED_ROWS = 200
_MAX_CLASSES_OF_NUMBERS = 20
_MAX_NAME_CHARACTERS = 100
_AMBIGUOUS = -2


@dataclass(frozen=True)
class Table:
    """The text of a table, by column; all columns have the same length."""

    name: str
    columns: Mapping[str, Sequence[str]]
    first_row: Sequence[str] = ()
    """The cells that name the columns, which are data if the file has no header."""

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def without_header(self) -> "Table":
        columns = zip(self.first_row, self.columns.values(), strict=True)
        return Table(self.name, {f"column {n}": [cell, *cells] for n, (cell, cells) in enumerate(columns, 1)})


@dataclass(frozen=True)
class TableLabels:
    """What a table says about the images."""

    name: str
    column: str
    """The label column in words, for messages."""
    named: bool
    """Whether the column has a usual name of labels, or was chosen by the user."""
    labels: Mapping[int, str]
    """By index of the image."""
    parts: Mapping[int, str]
    """By index of the image; empty without a column of parts."""
    contradicting: frozenset[int]
    """Images with several rows of different labels."""
    unlabeled: frozenset[int]
    """Images whose rows have no label."""
    missing: Sequence[str]
    """File names without an image, or with several."""


def parse_table(name: str, data: bytes) -> Table:
    """Read the content of a table. Raises DataError if it is damaged, not a table, or too large."""
    if len(data) > MAX_TABLE_BYTES:
        raise DataError(f"the table {name} is larger than {MAX_TABLE_BYTES // 2**20} MiB; keep only the columns needed")
    suffix = posixpath.splitext(name)[1].lower()
    if is_spreadsheet(name):
        raise DataError(f"the table {name} is a spreadsheet: save it as CSV")
    try:
        if suffix == ".parquet":
            return Table(name, _parse_parquet(data))
        if suffix in (".jsonl", ".ndjson"):
            return Table(name, _columns_of_records([json.loads(line) for line in data.splitlines() if line.strip()]))
        if suffix == ".json":
            return Table(name, _columns_of_records(json.loads(data)))
        return _parse_delimited(name, _decode(data), spaces=suffix == ".txt")
    except (ValueError, TypeError, csv.Error, RecursionError, OSError) as error:
        raise DataError(f"the table {name} cannot be read: {one_line(error)}") from None


def is_spreadsheet(path: str) -> bool:
    return path.lower().endswith((".xlsx", ".xls", ".ods"))


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _parse_delimited(name: str, text: str, *, spaces: bool) -> Table:
    if match := re.match(r"sep=.\r?\n", text):  # written by Excel
        text = text[match.end() :]
    first = text.lstrip().split("\n", 1)[0]
    delimiters = ",;\t|" + (" " if spaces else "")
    delimiter = max(delimiters, key=lambda each: len(next(csv.reader([first], delimiter=each), ())))
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    cells = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    if not cells:
        raise ValueError("it is empty")
    header, width = cells[0], len(cells[0])
    _require_dense(width, len(cells), sum(map(len, cells)))
    columns: dict[str, list[str]] = {}
    for place, title in enumerate(header):
        key = _name(title)
        key = key if key and key not in columns else f"column {place + 1}"
        columns[key] = [row[place] if place < len(row) else "" for row in cells[1:]]
    return Table(name, columns, header)


def _columns_of_records(records: Any) -> dict[str, list[str]]:
    """Of a list of objects, or of an object from file names to labels."""
    if isinstance(records, dict) and records and all(isinstance(value, str | int) for value in records.values()):
        records = [{"file_name": name, "label": value} for name, value in records.items()]
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise ValueError("it is not a list of objects")
    names = dict.fromkeys(name for record in records for name in record)
    _require_dense(len(names), len(records), sum(map(len, records)))
    return {_name(str(name)): [_text(record.get(name)) for record in records] for name in names}


def _require_dense(width: int, height: int, cells: int) -> None:
    """Raises ValueError for rows so different that a table of them would need much more memory than the file."""
    if width * height > 10 * cells + 1000:
        raise ValueError("its rows have very different columns")


def _name(title: str) -> str:
    """A column's name in one line."""
    return clip(" ".join(title.split()), _MAX_NAME_CHARACTERS)


def _text(value: object) -> str:
    if value is None or isinstance(value, list | dict | bytes):
        return ""
    return str(value).strip()


def _parse_parquet(data: bytes) -> dict[str, list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            groups = (file.metadata.row_group(group) for group in range(file.num_row_groups))
            unpacked = sum(group.total_byte_size for group in groups)
            if max(unpacked, rows * len(schema.names)) > MAX_TABLE_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_TABLE_BYTES // 2**20} MiB")
            texts = [field.name for field in schema if pa.types.is_string(field.type)]
        # A text that repeats is in the file once, and so must it be in memory.
        with pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts) as file:
            columns = {}
            for field in schema:
                values = [""] * rows
                if not (pa.types.is_nested(field.type) or pa.types.is_binary(field.type)):
                    values = _texts(file.read(columns=[field.name]).column(0).combine_chunks())
                columns[_name(field.name)] = values
            return columns
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(one_line(error)) from None


def _texts(column: Any) -> list[str]:
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return [_text(value) for value in column.to_pylist()]
    texts = [_text(value) for value in column.dictionary.to_pylist()]
    return ["" if index is None else texts[index] for index in column.indices.to_pylist()]


class ImageIndex:
    """Finds images by the file names in tables, which may lack the suffix, the folder, or have a longer path."""

    def __init__(self, images: Mapping[int, str]) -> None:
        self.images = images
        self._steps = {index: tuple(comparable(path).split("/")) for index, path in images.items()}
        self._by_path = {steps: index for index, steps in self._steps.items()}
        self._by_name: dict[str, list[int]] = {}
        self._by_stem: dict[str, list[int]] = {}
        for index, steps in self._steps.items():
            self._by_name.setdefault(steps[-1], []).append(index)
            self._by_stem.setdefault(posixpath.splitext(steps[-1])[0], []).append(index)
        self._parts = {index: _parts_in(path.split("/")[:-1]) for index, path in images.items()}

    def find(self, value: str, folder: Sequence[str], part: str) -> int | None:
        """The image of a file name in a table that is in `folder` and belongs to `part` ("" if unknown).

        folder: the comparable names of the table's folders.
        Returns None if there is none, and _AMBIGUOUS if several fit equally well.
        """
        written = [step for step in value.replace("\\", "/").split("/") if step not in ("", ".")]
        if not written:
            return None
        steps = tuple(map(comparable, written))
        for exact in ((*folder, *steps), steps):
            if exact in self._by_path:
                return self._by_path[exact]
        stem, suffix = posixpath.splitext(steps[-1])
        stem = stem if suffix in IMAGE_SUFFIXES else steps[-1]
        candidates = self._by_name.get(steps[-1]) or self._by_stem.get(stem) or []
        parts = _parts_in(written[:-1])
        candidates = [each for each in candidates if not parts or not self._parts[each] or parts & self._parts[each]]
        if len(candidates) > 1:
            candidates = self._closest(candidates, steps, folder)
        if len(candidates) > 1 and part:
            candidates = [each for each in candidates if part in self._parts[each]] or candidates
        if not candidates:
            return None
        return candidates[0] if len(candidates) == 1 else _AMBIGUOUS

    def _closest(self, candidates: Sequence[int], steps: Sequence[str], folder: Sequence[str]) -> list[int]:
        """Those whose last folders agree most with the written ones; of those, those below the table's folder."""

        def agreement(index: int) -> tuple[int, bool]:
            pairs = zip(self._steps[index][-2::-1], steps[-2::-1], strict=False)
            same = 0
            for stored, written in pairs:
                if stored != written:
                    break
                same += 1
            return same, self._steps[index][: len(folder)] == tuple(folder)

        agreements = {each: agreement(each) for each in candidates}
        best = max(agreements.values())
        return [each for each, found in agreements.items() if found == best]


def _parts_in(folders: Iterable[str]) -> set[str]:
    return {found.part for folder in folders if (found := parse_part_name(folder))}


def with_file_column(table: Table, index: ImageIndex, part: str) -> tuple[Table, str, list[int | None]] | None:
    """Find the column of file names; None if the table is not about these images.

    Returns the table, whose first row becomes data if it is not a header, the column, and the image of each row.
    """
    folder = [] if table.name.startswith("/") else [comparable(step) for step in table.name.split("/")[:-1]]

    def find(value: str) -> int | None:
        return index.find(value, folder, part)

    best: tuple[int, int] | None = None
    chosen: tuple[str, list[int | None]] | None = None
    step = max(1, table.rows // _SAMPLED_ROWS)
    for name, values in table.columns.items():
        header = _header(name)
        if header not in _FILE_HEADERS and all(find(value) is None for value in values[::step]):
            continue
        found = [find(value) for value in values]
        if 2 * sum(each == _AMBIGUOUS for each in found) > table.rows:
            raise DataError(
                f"the file names in column {name!r} of {table.name}, such as {values[0]}, fit several images each: "
                "write paths with the folders of the images"
            )
        distinct = len({each for each in found if each is not None})
        if not distinct or 2 * distinct < min(table.rows, len(index.images)):
            continue
        # Few numbers may be those of classes, in a list of them.
        if 10 * distinct < len(index.images) and not any(posixpath.splitext(value)[1] for value in values):
            continue
        rank = (distinct, -_FILE_HEADERS.index(header) if header in _FILE_HEADERS else -len(_FILE_HEADERS))
        if best is None or rank > best:
            best, chosen = rank, (name, found)
    if chosen is None:
        return None
    name, found = chosen
    if table.first_row and _header(name) not in _FILE_HEADERS and (first := find(name)) is not None:
        place = list(table.columns).index(name) + 1
        return table.without_header(), f"column {place}", [first, *found]
    return table, name, found


def read_labels(table: Table, index: ImageIndex, part: str, label_column: str) -> TableLabels | None:
    """Labels of the images by a table; None if the table is not about these images.

    Raises DataError if the label column is not clear, or cannot hold classes.
    """
    located = with_file_column(table, index, part)
    if located is None:
        return None
    table, file_column, found = located
    column, named, values = _label_values(table, file_column, label_column)
    split = _split_column(table, {file_column, label_column})
    labels: dict[int, str] = {}
    parts: dict[int, str] = {}
    contradicting: set[int] = set()
    listed_images: set[int] = set()
    missing = []
    for row, (image, value) in enumerate(zip(found, values, strict=True)):
        if image is None or image == _AMBIGUOUS:
            missing.append(table.columns[file_column][row])
            continue
        listed_images.add(image)
        if value and labels.setdefault(image, value) != value:
            contradicting.add(image)
        if split:
            parts[image] = split[row]
    if 2 * len(contradicting) > len(listed_images):
        raise DataError(
            f"{column} of {table.name} has several labels for {counted(len(contradicting), 'image')}: only one class "
            "per image can be learned; keep one row per image, or choose another column with --label-column"
        )
    _require_classes([labels[image] for image in labels], f"{column} of {table.name}")
    for image in contradicting:
        del labels[image]
    unlabeled = frozenset(listed_images - labels.keys() - contradicting)
    return TableLabels(table.name, column, named, labels, parts, frozenset(contradicting), unlabeled, missing)


def _label_values(table: Table, file_column: str, label_column: str) -> tuple[str, bool, list[str]]:
    """The label column in words, whether it is named as one, and its values; "" for a row without a label."""
    columns = {name: values for name, values in table.columns.items() if name != file_column}
    if label_column:
        if label_column not in table.columns:
            raise DataError(f"{table.name} has no column {label_column!r}; it has {listed(list(table.columns), 20)}")
        return f"column {label_column!r}", True, _clean(table.columns[label_column])
    if {_header(name) for name in columns} & _BOX_HEADERS:
        raise DataError(
            f"{table.name} holds boxes around objects, for object detection: {INSTEAD_OF_ANNOTATIONS}, or name the "
            "column with one class per image with --label-column"
        )
    named = {name: _clean(values) for name, values in columns.items() if _header(name) in _LABEL_HEADERS}
    longer = {name: _clean(values) for name, values in columns.items() if name not in named and is_label_header(name)}
    named = named or longer
    named = {name: values for name, values in named.items() if any(values)}
    # A number and a name of the same class.
    first = next(iter(named.values()), [])
    if named and all(one_to_one(first, values) for values in named.values()):
        same = {name: values for name, values in (named | longer).items() if one_to_one(first, values)}
        chosen = max(same, key=lambda name: not any(map(_is_number, same[name])))
        return f"column {chosen!r}", True, same[chosen]
    if not named:
        if (classes := _one_hot(columns)) is not None:
            return "the one-hot columns", False, classes
        named = {name: values for name, values in ((n, _clean(v)) for n, v in columns.items()) if _repeats(values)}
        named = {name: values for name, values in named.items() if _header(name) not in _SPLIT_HEADERS}
        if len(columns) == 1:
            named = {name: _clean(values) for name, values in columns.items()}
        if len(named) == 1:
            return next((f"column {name!r}", False, values) for name, values in named.items())
    if not columns:
        raise DataError(f"{table.name} has only file names, in the column {file_column!r}, but no labels")
    raise DataError(
        f"it is not clear which column of {table.name} holds the labels: choose one with --label-column "
        f"({listed(list(named or columns), 20)})"
    )


def is_label_header(name: str) -> bool:
    """Whether the name of a column says that it holds labels, such as `class`, `species` or `class_name`."""
    words = set(_header(name).split("_"))
    return words <= _LABEL_WORDS and not words.isdisjoint(_LABEL_HEADERS)


def _header(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()).strip("_")


def _clean(values: Sequence[str]) -> list[str]:
    """In one line, without the ways to write a missing value, and without the decimals that writers add to integers."""
    values = [" ".join(value.split()) for value in values]
    present = [value for value in values if value.casefold() not in _MISSING]
    whole = all(re.fullmatch(r"-?\d+(\.0+)?", value) for value in present)
    return ["" if value.casefold() in _MISSING else value.split(".")[0] if whole else value for value in values]


def one_to_one(first: Iterable[str], second: Iterable[str]) -> bool:
    """Whether two labelings of the same images divide them into the same classes, by whatever names."""
    pairs = set(zip(first, second, strict=True))
    return len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


def _repeats(values: Sequence[str]) -> bool:
    present = [value for value in values if value]
    return 1 < len(set(present)) <= len(present) / 2


def _one_hot(columns: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The class of each row if exactly one of the columns of zeros and ones is one, in nearly all rows."""
    binary = {
        name: values
        for name, values in columns.items()
        if all(value.casefold() in _ONE | _ZERO for value in values)
        and any(value.casefold() in _ONE for value in values)
    }
    if len(binary) < 2:
        return None
    chosen = [
        [name for name, value in zip(binary, row, strict=True) if value.casefold() in _ONE]
        for row in zip(*binary.values(), strict=True)
    ]
    if 20 * sum(len(names) != 1 for names in chosen) > len(chosen):
        return None
    return [names[0] if len(names) == 1 else "" for names in chosen]


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _require_classes(labels: Sequence[str], column: str) -> None:
    """Raises DataError if the labels are quantities, or names of the images."""
    distinct = set(labels)
    instead = "choose another column with --label-column"
    if len(distinct) > _MAX_CLASSES_OF_NUMBERS and all(map(_is_number, distinct)):
        decimals = [label for label in labels if not float(label).is_integer()]
        if decimals:
            raise DataError(
                f"{column} holds {len(distinct):,} different numbers, such as {decimals[0]}: a quantity to estimate, "
                f"but only classes can be learned; {instead}, or divide the values into classes"
            )
    if len(labels) > _MAX_CLASSES_OF_NUMBERS and 2 * len(distinct) > len(labels):
        raise DataError(
            f"{column} has {len(distinct):,} different values for {counted(len(labels), 'image')}, so it does not hold "
            f"classes; {instead}"
        )


def _split_column(table: Table, others: set[str]) -> list[str] | None:
    """The part of each row, if a column has such a name and only names of parts, one of them for training."""
    for name, values in table.columns.items():
        if name in others or _header(name) not in _SPLIT_HEADERS:
            continue
        names = {value: found for value in set(values) if value and (found := parse_part_name(value))}
        if names.keys() == set(values) - {""} and "train" in (parts := {found.part for found in names.values()}):
            used = resolve_evaluation(parts)
            return [used[names[value].part] if value else "train" for value in values]
    return None


INSTEAD_OF_ANNOTATIONS = (
    "to classify whole images, put them into one subfolder per class or write a table with the columns file_name and "
    "label; to classify the objects, cut them out first"
)


def name_annotations(paths: Sequence[str], images: Mapping[int, str], read: Callable[[str, int], bytes]) -> str:
    """Says which annotations for object detection are among the files; "" if there are none."""
    stems = {_stem(path) for path in images.values()}
    for suffix, kind in ((".xml", "Pascal VOC annotations"), (".txt", "YOLO labels")):
        files = [path for path in paths if path.lower().endswith(suffix) and _stem(path) in stems]
        if files and 2 * len(files) >= len(stems):
            return f"{listed(files, 1)} are {kind}, for object detection: {INSTEAD_OF_ANNOTATIONS}"
    for path in paths:
        if path.lower().endswith(".json") and _is_coco(path, read):
            return f"{path} holds COCO annotations, for object detection: {INSTEAD_OF_ANNOTATIONS}"
    return ""


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def _is_coco(path: str, read: Callable[[str, int], bytes]) -> bool:
    """By the names of its lists, so that it works for the start of a larger file."""
    try:
        data = read(path, MAX_TABLE_BYTES)
    except DataError:
        return False
    keys = [rf'"{key}"\s*:\s*\['.encode() for key in ("images", "annotations", "categories")]
    return sum(re.search(key, data) is not None for key in keys) >= 2
