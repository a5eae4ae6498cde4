"""Data format: image folders with one subfolder per class, optionally below train/ and test/."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.image_source import UNLABELED, FileShard, ImageSource
from image_classifier.errors import DataError
from image_classifier.text import counted, listed

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
FILES_PER_SHARD = 256

_PART_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
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
    warnings: tuple[str, ...]


def part_from_name(name: str) -> str | None:
    """The part that a folder or file name stands for: "train", "validation", "test", or None."""
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
    return ImageSource(layout.classes, shards, layout.labels, layout.in_test, names, None, layout.warnings)


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
    parts = _has_part_folders(images, origin, labels_needed)
    classes: dict[str, list[tuple[int, bool]]] = {}
    outside_classes: list[int] = []
    outside_parts: list[int] = []
    validation = 0
    for index, steps in images.items():
        part = part_from_name(steps[0]) if parts else "train"
        below = steps[1:] if parts else steps
        if part is None:
            outside_parts.append(index)
        elif len(below) < 2:
            outside_classes.append(index)
        else:
            classes.setdefault(below[0], []).append((index, part == "test"))
            validation += part == "validation"
    if labels_needed and not classes:
        raise DataError(f"{origin}: the images have no labels, as they are not in subfolders; expected {_LAYOUT}")
    for steps in empty:
        below = steps[1:] if parts and part_from_name(steps[0]) else steps
        if below:
            classes.setdefault(below[0], [])
    names = tuple(sorted(classes))
    rows = [(label, index, test) for label, name in enumerate(names) for index, test in classes[name]]
    if not labels_needed:
        rows += [(UNLABELED, index, False) for index in (*outside_classes, *outside_parts)]
        rows.sort(key=lambda row: row[1])
    else:
        for skipped, folders in ((outside_classes, "class"), (outside_parts, "train and test")):
            if skipped:
                shown = listed([paths[index] for index in skipped])
                warnings.append(f"skipped {counted(len(skipped), 'image')} outside of the {folders} folders: {shown}")
        if validation:
            warnings.append(validation_warning(validation))
    labels, selected, in_test = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Layout(names, selected, labels, in_test.astype(bool), tuple(warnings))


def validation_warning(images: int) -> str:
    """The warning about the images of a validation part, which training splits anew."""
    return f"added {counted(images, 'image')} of the validation part to the training part"


def _strip_common_folders(images: dict[int, list[str]], empty: list[list[str]]) -> None:
    """Drop leading folders that all images share, as archives have, if a class folder is left below."""
    while True:
        first = {steps[0] for steps in images.values()}
        if len(first) > 1 or min(map(len, images.values())) < 3 or part_from_name(next(iter(first))):
            return
        for steps in (*images.values(), *empty):
            del steps[0]
        empty[:] = [steps for steps in empty if steps]


def _has_part_folders(images: dict[int, list[str]], origin: str, labels_needed: bool) -> bool:
    folders = {steps[0] for steps in images.values() if len(steps) > 1}
    parts = {part for part in map(part_from_name, folders) if part}
    if not parts or (len(parts) == 1 and len(folders) > 1):
        return False
    if any(part_from_name(steps[0]) and len(steps) > 2 for steps in images.values()):
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
