"""Data format: image folders with one subfolder per class, optionally below train/, validation/ and test/."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.image_source import UNLABELED, FileShard, ImageSource, Shard
from image_classifier.errors import DataError
from image_classifier.text import counted, listed

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
FILES_PER_SHARD = 256

_PART_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    "unlabeled": ("unlabeled", "unlabelled", "unsup", "unsupervised"),
}
_SYSTEM_FILES = ("__MACOSX", "Thumbs.db", "desktop.ini")
_FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF files"
_LAYOUT = f"one subfolder per class, with {_FORMATS}"


@dataclass(frozen=True)
class Layout:
    """Images among a list of paths, with their classes and parts."""

    classes: tuple[str, ...]
    selected: NDArray[np.int64]
    """int64 [N], indices of the images in the paths, ordered by class and path, or by path if no labels are needed."""
    labels: NDArray[np.int64]
    in_test: NDArray[np.bool_]
    in_validation: NDArray[np.bool_]
    warnings: tuple[str, ...]

    def source(self, shards: tuple[Shard, ...], names: Sequence[str]) -> ImageSource:
        """The images, which `shards` read in the order of `selected`."""
        return ImageSource(
            self.classes, shards, self.labels, self.in_test, self.in_validation, names, None, self.warnings
        )


def part_from_name(name: str) -> str | None:
    """The part that a folder or file name stands for: "train", "validation", "test", "unlabeled", or None."""
    return next((part for part, names in _PART_NAMES.items() if name.lower() in names), None)


def is_system_file(path: str) -> bool:
    """Whether a relative path is hidden or was created by an operating system."""
    return any(part.startswith(".") or part in _SYSTEM_FILES for part in path.split("/") if part)


def is_image(path: str) -> bool:
    """Whether a relative path has the suffix of an image format and is not a system file."""
    return not is_system_file(path) and PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def list_files(root: Path) -> list[str]:
    """Returns the sorted relative paths of all files below `root`, and of empty folders with a trailing slash."""
    paths: list[str] = []
    for folder, subfolders, files in os.walk(root, onerror=_raise_unreadable, followlinks=True):
        subfolders[:] = [name for name in subfolders if not is_system_file(name) and not _is_cyclic_link(folder, name)]
        prefix = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
        paths += [prefix + name for name in files]
        if not files and not subfolders and prefix:
            paths.append(prefix)
    return sorted(paths)


def read_folder(root: Path, paths: Sequence[str], *, labels_needed: bool = True) -> ImageSource:
    """Find the images of a folder; `paths` is the result of `list_files`. Raises DataError if there are none."""
    layout = parse_layout(paths, str(root), labels_needed=labels_needed)
    names = [paths[index] for index in layout.selected]
    shards = tuple(
        FileShard(tuple(str(root / name) for name in names[first : first + FILES_PER_SHARD]))
        for first in range(0, len(names), FILES_PER_SHARD)
    )
    return layout.source(shards, names)


def parse_layout(paths: Sequence[str], origin: str, *, labels_needed: bool = True) -> Layout:
    """Derive classes and parts from relative paths; a path with a trailing slash is an empty folder.

    Folders above the class folders that contain nothing else are skipped. `origin` is the data's name in messages.
    Images without a class are skipped, or kept as UNLABELED unless `labels_needed`.
    Raises DataError if there is no image, or if there is no class although labels are needed.
    """
    images = {i: path.split("/") for i, path in enumerate(paths) if is_image(path)}
    empty = [path.rstrip("/").split("/") for path in paths if path.endswith("/") and not is_system_file(path)]
    others = [path for path in paths if not path.endswith("/") and not is_image(path)]
    if not images:
        reason = f"only {counted(len(others), 'other file')} ({listed(others)})" if others else "it is empty"
        raise DataError(f"{origin} has no images: {reason}; expected {_LAYOUT if labels_needed else _FORMATS}")
    warnings = []
    if others:
        warnings.append(f"skipped {counted(len(others), 'non-image file')}: {listed(others)}")
    _strip_common_folders(images, empty)
    _add_training_folder(images, empty)
    parts = _has_part_folders(images, origin, labels_needed)
    classes: dict[str, list[tuple[int, str]]] = {}
    outside_classes: list[int] = []
    outside_parts: list[int] = []
    unlabeled: list[int] = []
    for index, steps in images.items():
        part = part_from_name(steps[0]) if parts else "train"
        below = steps[1:] if parts else steps
        if part is None:
            outside_parts.append(index)
        elif part == "unlabeled" or (len(below) > 1 and part_from_name(below[0]) == "unlabeled"):
            unlabeled.append(index)
        elif len(below) < 2:
            outside_classes.append(index)
        else:
            classes.setdefault(below[0], []).append((index, part))
    if labels_needed and not classes:
        raise DataError(f"{origin}: the images have no labels, as they are not in class folders; expected {_LAYOUT}")
    for steps in empty:
        below = steps[1:] if parts and part_from_name(steps[0]) else steps
        if below and "unlabeled" not in (part_from_name(steps[0]), part_from_name(below[0])):
            classes.setdefault(below[0], [])
    names = tuple(sorted(classes))
    rows = [
        (label, index, part == "test", part == "validation")
        for label, name in enumerate(names)
        for index, part in classes[name]
    ]
    if not labels_needed:
        rows += [(UNLABELED, index, False, False) for index in (*outside_classes, *outside_parts, *unlabeled)]
        rows.sort(key=lambda row: row[1])
    else:
        for skipped, where in (
            (outside_classes, "outside of the class folders"),
            (outside_parts, "outside of the train and test folders"),
            (unlabeled, "in the folder of unlabeled images"),
        ):
            if skipped:
                shown = listed([paths[index] for index in skipped])
                warnings.append(f"skipped {counted(len(skipped), 'image')} {where}: {shown}")
    labels, selected, *parts_of_rows = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    in_test, in_validation = np.array(parts_of_rows, dtype=bool)
    return Layout(names, selected, labels, in_test, in_validation, tuple(warnings))


def _strip_common_folders(images: dict[int, list[str]], empty: list[list[str]]) -> None:
    """Drop leading folders that all images share, as archives have, if a class folder is left below."""
    while True:
        first = {steps[0] for steps in images.values()}
        if len(first) > 1 or min(map(len, images.values())) < 3 or part_from_name(next(iter(first))):
            return
        for steps in (*images.values(), *empty):
            del steps[0]
        empty[:] = [steps for steps in empty if steps]


def _add_training_folder(images: dict[int, list[str]], empty: list[list[str]]) -> None:
    """Move the class folders below train/ if they are next to a test/ or validation/ with the same class folders."""
    below: dict[str, set[str]] = {}
    for steps in images.values():
        if len(steps) > 1:
            below.setdefault(steps[0], set()).update(steps[1:2] if steps[2:] else ())
    parts = {folder for folder in below if part_from_name(folder) in ("test", "validation")}
    classes = {name for part in parts for name in below[part]}
    has_training = any(part_from_name(folder) == "train" and below[folder] for folder in below)
    if has_training or not classes or not classes <= below.keys() - parts:
        return
    for steps in (*images.values(), *empty):
        if steps[0] not in parts and part_from_name(steps[0]) != "unlabeled":
            steps.insert(0, "train")


def _has_part_folders(images: dict[int, list[str]], origin: str, labels_needed: bool) -> bool:
    folders = {steps[0] for steps in images.values() if len(steps) > 1 and part_from_name(steps[0]) != "unlabeled"}
    parts = {part for part in map(part_from_name, folders) if part}
    if not parts or (len(parts) == 1 and len(folders) > 1):
        return False
    if any(steps[0] in folders and part_from_name(steps[0]) and len(steps) > 2 for steps in images.values()):
        return True
    if len(parts) == len(folders):
        if not labels_needed:
            return True
        raise DataError(
            f"{origin}: the images have no labels, as {listed(sorted(folders))} have no class folders; expected "
            f"{_LAYOUT}"
        )
    return False


def _is_cyclic_link(folder: str, name: str) -> bool:
    link = Path(folder, name)
    return link.is_symlink() and Path(folder).resolve().is_relative_to(link.resolve())


def _raise_unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}")
