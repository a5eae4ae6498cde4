"""Labels of image files: from the names of their folders, or from tables next to them."""

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from image_classifier.datasets.label_table import (
    INSTEAD_OF_ANNOTATIONS,
    MAX_TABLE_BYTES,
    TABLE_SUFFIXES,
    ImageIndex,
    TableLabels,
    is_spreadsheet,
    name_annotations,
    one_to_one,
    parse_table,
    read_labels,
)
from image_classifier.datasets.layout import (
    AUTO,
    CLASSES,
    NEUTRAL_WORDS,
    Layout,
    Row,
    UnlabeledError,
    build_layout,
    is_image,
    is_system_file,
    parse_layout,
    parse_part_name,
    parts_of_files,
    require_images,
    resolve_evaluation,
)
from image_classifier.errors import DataError
from image_classifier.files import expand_home
from image_classifier.text import counted, listed

_MASK_WORDS = frozenset(("image", "images", "img", "imgs", "jpegimages", "mask", "masks", "class", "object"))
_MAX_TABLES = 50
"""More are not tables of labels but files that belong to single images."""

Read = Callable[[str, int], bytes]
"""Reads a file of the data set by its relative path, at most a number of bytes."""


@dataclass(frozen=True)
class LabelOptions:
    """How the labels are found. The settings of the same names describe the fields."""

    layout: str = AUTO
    labels: str = ""
    label_column: str = ""


DEFAULT_OPTIONS = LabelOptions()


def find_labels(
    paths: Sequence[str], origin: str, read: Read, options: LabelOptions, *, labels_needed: bool = True
) -> Layout:
    """Find the images among relative paths, with their classes and parts.

    The labels are those of the class folders, unless there are none or the options name a table. Only folders are
    considered unless `labels_needed`; images without a label are then kept.
    Raises DataError if there are no images or labels, or if folders or tables can be read in several ways.
    """
    require_images(paths, origin, labels_needed=labels_needed)
    wanted = bool(options.labels or options.label_column)
    if not labels_needed or (options.layout != AUTO and not wanted):
        return parse_layout(paths, origin, layout=options.layout, labels_needed=labels_needed)
    images = {index: path for index, path in enumerate(paths) if is_image(path)}
    tables, reasons = _read_tables(paths, images, origin, read, options)
    if wanted:
        if not tables:
            raise DataError(f"{origin}: {'; '.join(reasons) or 'no table has the file names of the images'}")
        return _layout_of_tables(tables, images, paths, origin, parts_in_folders=options.layout != CLASSES)
    try:
        layout = parse_layout(paths, origin)
    except UnlabeledError as error:
        if tables:
            return _layout_of_tables(tables, images, paths, origin)
        if hints := _hints(paths, images, read, reasons):
            raise DataError("; ".join([error.reason, *hints])) from None
        raise
    folders = [layout.classes[label] for label in np.unique(layout.labels)]
    if tables and (len(folders) < 2 or _name_no_classes(folders) or _hold_masks(folders)):
        return _layout_of_tables(tables, images, paths, origin)
    if tables:
        _require_agreement(layout, folders, tables, origin)
    elif len(folders) < 2 or _hold_masks(folders):
        if hints := _hints(paths, images, read, reasons):
            raise DataError(f"{origin} has no class folders, only {listed(folders)}; {'; '.join(hints)}")
        if _hold_masks(folders):
            raise DataError(
                f"{origin} has images and masks, for segmentation ({listed(folders)}): {INSTEAD_OF_ANNOTATIONS}"
            )
    return layout


def _require_agreement(layout: Layout, folders: Sequence[str], tables: Sequence[TableLabels], origin: str) -> None:
    """Raises DataError if a table divides most of the images into other classes than the folders do."""
    labeled = {int(i): layout.classes[label] for i, label in zip(layout.selected, layout.labels, strict=True)}
    for table in tables:
        common = table.labels.keys() & labeled.keys()
        if not table.named or 2 * len(common) <= len(labeled):
            continue
        if not one_to_one((labeled[image] for image in common), (table.labels[image] for image in common)):
            classes = sorted(set(table.labels.values()))
            raise DataError(
                f"{origin}: the folders and a table have different labels; choose --layout {layout.reading} "
                f"({counted(len(folders), 'class')}: {listed(folders)}) or --labels {table.name} "
                f"({table.column}, {counted(len(classes), 'class')}: {listed(classes)})"
            )


def _read_tables(
    paths: Sequence[str], images: Mapping[int, str], origin: str, read: Read, options: LabelOptions
) -> tuple[list[TableLabels], list[str]]:
    """The tables with labels of the images, and why others that name images have none.

    Raises DataError if the table that the options name cannot be used.
    """
    if options.labels:
        name, data = _named_table(paths, origin, read, options.labels)
        found = read_labels(parse_table(name, data), ImageIndex(images), "", options.label_column)
        if found is None:
            raise DataError(f"{origin}: no column of {name} has the file names of the images")
        return [found], []
    names = [path for path in paths if _may_be_table(path)]
    if not names or len(names) > _MAX_TABLES:
        return [], []
    index = ImageIndex(images)
    tables, reasons = [], []
    for name, part in zip(names, parts_of_files(names), strict=True):
        try:
            table = parse_table(name, read(name, MAX_TABLE_BYTES + 1))
        except DataError:
            # A file that names no image need not be readable.
            continue
        try:
            found = read_labels(table, index, part, options.label_column)
        except DataError as error:
            reasons.append(str(error))
            continue
        if found is not None and found.labels:
            tables.append(found)
    return [table for table in tables if table.named] or tables, reasons


def _may_be_table(path: str) -> bool:
    """A sample submission has file names and a column of labels, but those are not true."""
    suffix = posixpath.splitext(path)[1].lower()
    return suffix in TABLE_SUFFIXES and not is_system_file(path) and "submission" not in path.rsplit("/", 1)[-1].lower()


def _named_table(paths: Sequence[str], origin: str, read: Read, labels: str) -> tuple[str, bytes]:
    """Relative path and content of a table in the data, or path and content of one elsewhere."""
    relative = labels.removeprefix(f"{origin.rstrip('/')}/").removeprefix("./")
    inside = [path for path in paths if path == relative] or [path for path in paths if path.endswith(f"/{relative}")]
    if len(inside) == 1:
        return inside[0], read(inside[0], MAX_TABLE_BYTES + 1)
    path = expand_home(labels)
    if len(inside) > 1 or not path.is_file():
        present = [path for path in paths if _may_be_table(path)]
        found = f"several files of that name: {listed(inside)}" if inside else "no such file"
        if not inside and present:
            found += f"; its tables are {listed(present)}"
        raise DataError(f"labels is {labels}, but {origin} has {found}")
    try:
        with path.open("rb") as file:
            return str(path.absolute()), file.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        raise DataError(f"the table {labels} cannot be read: {error.strerror}") from None


def _hints(paths: Sequence[str], images: Mapping[int, str], read: Read, reasons: Sequence[str]) -> list[str]:
    if annotations := name_annotations(paths, images, read):
        return [annotations]
    sheets = [f"{path} is a spreadsheet: save it as CSV" for path in paths if is_spreadsheet(path)]
    return [*reasons, *sheets[:1]]


def _hold_masks(folders: Sequence[str]) -> bool:
    """Whether folders are named like images and masks for segmentation, as `images` and `masks` are."""
    words = [set(re.findall(r"[a-z]+", folder.casefold().replace("segmentation", "mask "))) for folder in folders]
    masks = [bool(each & {"mask", "masks"}) for each in words]
    return any(masks) and not all(masks) and all(each and each <= _MASK_WORDS for each in words)


def _name_no_classes(folders: Sequence[str]) -> bool:
    """Whether folders differ only in a number, as `images_part_1` and `images_part_2` do."""
    words = {" ".join(re.findall(r"[^\W\d_]+", folder.casefold())) for folder in folders}
    return len(words) == 1 and any(word.rstrip("s") in NEUTRAL_WORDS for word in words.pop().split())


def _combine(tables: Sequence[TableLabels], origin: str) -> list[TableLabels]:
    """Without tables that only repeat others. Raises DataError if two have different labels for an image."""
    chosen: list[TableLabels] = []
    for table in tables:
        for other in chosen:
            common = table.labels.keys() & other.labels.keys()
            different = sum(table.labels[image] != other.labels[image] for image in common)
            if different:
                raise DataError(
                    f"{origin}: {other.name} ({other.column}) and {table.name} ({table.column}) have different labels "
                    f"for {counted(different, 'image')}; choose one with --labels"
                )
        if not any(table.labels.keys() <= other.labels.keys() for other in chosen):
            chosen.append(table)
    return chosen


def _layout_of_tables(
    tables: Sequence[TableLabels],
    images: Mapping[int, str],
    paths: Sequence[str],
    origin: str,
    *,
    parts_in_folders: bool = True,
) -> Layout:
    """The labels of the tables. Raises DataError if two of them have different labels for an image."""
    tables = _combine(tables, origin)
    labels = {image: label for table in tables for image, label in table.labels.items()}
    contradicting = {image for table in tables for image in table.contradicting} - labels.keys()
    unlabeled = {image for table in tables for image in table.unlabeled} - labels.keys()
    folders = {image: _part_of_folders(images[image]) if parts_in_folders else "" for image in labels}
    parts = _parts(tables, labels, folders)
    usable = [image for image in labels if parts[image] != "unlabeled"]
    layout = build_layout(
        [Row(image, labels[image], parts[image]) for image in usable],
        paths,
        labels_needed=True,
        used=[table.name for table in tables],
    )
    columns = [f"{table.column} of {table.name}" for table in tables]
    warnings = [f"the labels are those in {listed(columns)}"]
    if missing := [name for table in tables for name in table.missing]:
        warnings.append(f"skipped {counted(len(missing), 'row')} of the table without an image: {listed(missing)}")
    for skipped, reason in (
        (contradicting, "with contradicting labels in the table"),
        (unlabeled, "whose row has no label"),
        (images.keys() - labels.keys() - contradicting - unlabeled, "without a row in the table"),
        (labels.keys() - set(usable), "of the unlabeled part"),
    ):
        if skipped:
            names = listed([images[image] for image in sorted(skipped)])
            warnings.append(f"skipped {counted(len(skipped), 'image')} {reason}: {names}")
    return replace(layout, warnings=(*layout.warnings, *warnings))


def _parts(tables: Sequence[TableLabels], labels: Mapping[int, str], folders: Mapping[int, str]) -> dict[int, str]:
    """The part of each labeled image: by a column of its table, by the table's name, or by the names of its folders.

    Names count only if they divide the images into several parts, one of them for training.
    """
    of_tables = parts_of_files([table.name for table in tables])
    by_table = {image: part for table, part in zip(tables, of_tables, strict=True) for image in table.labels}
    used = resolve_evaluation(folders.values())
    by_folder = {image: used[part] for image, part in folders.items()}
    chosen = dict.fromkeys(labels, "train")
    for parts in (by_folder, by_table):
        if "train" in parts.values() and set(parts.values()) - {"train", ""}:
            chosen |= {image: part for image, part in parts.items() if part}
    for table in tables:
        chosen |= {image: part for image, part in table.parts.items() if image in labels}
    return chosen


def _part_of_folders(path: str) -> str:
    found = (parse_part_name(folder) for folder in path.split("/")[:-1])
    return next((each.part for each in found if each), "")
