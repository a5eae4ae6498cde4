"""Image folders: one sub-folder a class, with or without train/ and test/ above them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.image_source import NO_CLASS, Files, ImageSource, counted, listed
from image_classifier.errors import DataError

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
)
FILES_A_SHARD = 256

_TRAIN, _TEST = ("train", "training"), ("test", "testing")
_VALIDATION = ("val", "valid", "validation", "dev")
_LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")
_FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF files"
_LAYOUT = f"one sub-folder a class with {_FORMATS} in it"


@dataclass(frozen=True)
class Arrangement:
    """Which of the paths are images, and their classes and parts."""

    classes: tuple[str, ...]
    chosen: NDArray[np.int64]
    """int64 [N], indices into the paths, in order of class and path; of path alone where no labels are needed."""
    labels: NDArray[np.int64]
    in_test: NDArray[np.bool_]
    warnings: tuple[str, ...]


def part_of(name: str) -> str | None:
    """The part that a folder's or file's name tells: "train", "validation", "test", or None."""
    name = name.lower()
    for part, words in (("train", _TRAIN), ("validation", _VALIDATION), ("test", _TEST)):
        if name in words:
            return part
    return None


def is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def is_litter(path: str) -> bool:
    """Whether a relative path is hidden or left there by an operating system."""
    return any(part.startswith(".") or part in _LITTER for part in path.split("/") if part)


def list_files(root: Path) -> list[str]:
    """Relative paths of the files under `root`, sorted, and of its empty folders with a slash at the end.

    Links are followed, but for those that lead back to a folder above them.
    """
    found: list[str] = []
    for folder, folders, files in os.walk(root, onerror=_cannot_list, followlinks=True):
        folders[:] = [name for name in folders if not is_litter(name) and not _is_circle(folder, name)]
        prefix = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
        found += [prefix + name for name in files]
        if not files and not folders and prefix:
            found.append(prefix)
    return sorted(found)


def read_folder(root: Path, paths: Sequence[str], *, labels_needed: bool = True) -> ImageSource:
    """The images of a folder; `paths` as `list_files` gives them. Raises DataError where there are none."""
    arranged = arrange(paths, str(root), labels_needed=labels_needed)
    names = [paths[index] for index in arranged.chosen]
    shards = tuple(
        Files(tuple(str(root / name) for name in names[first : first + FILES_A_SHARD]))
        for first in range(0, len(names), FILES_A_SHARD)
    )
    return ImageSource(
        arranged.classes, shards, arranged.labels, arranged.in_test, names, None, arranged.warnings
    )


def arrange(paths: Sequence[str], origin: str, *, labels_needed: bool = True) -> Arrangement:
    """Tell classes and parts from relative paths; a path that ends with a slash is an empty folder.

    Folders above the classes that hold nothing else are passed over. `origin` is named in errors.
    Images without a class are left out, or kept with NO_CLASS where no labels are needed.
    Raises DataError where there is no image, or no class where labels are needed.
    """
    images = {i: path.split("/") for i, path in enumerate(paths) if not is_litter(path) and is_image(path)}
    empty = [path.rstrip("/").split("/") for path in paths if path.endswith("/") and not is_litter(path)]
    others = [path for path in paths if not path.endswith("/") and (is_litter(path) or not is_image(path))]
    if not images:
        what = f"only {counted(len(others), 'other file')} ({listed(others)})" if others else "it is empty"
        needed = _LAYOUT if labels_needed else _FORMATS
        raise DataError(f"{origin} has no images: {what}; needed is {needed}")
    warnings = []
    if others:
        warnings.append(f"{counted(len(others), 'file')} ignored, being no images: {listed(others)}")
    _strip_wrappers(images, empty)
    parts = _parts(images, origin, labels_needed)
    classes: dict[str, list[tuple[int, bool]]] = {}
    unlabelled: list[int] = []
    outside: list[int] = []
    joined = 0
    for index, steps in images.items():
        part = part_of(steps[0]) if parts else "train"
        below = steps[1:] if parts else steps
        if part is None:
            outside.append(index)
        elif len(below) < 2:
            unlabelled.append(index)
        else:
            classes.setdefault(below[0], []).append((index, part == "test"))
            joined += part == "validation"
    if labels_needed and not classes:
        raise DataError(
            f"{origin}: the images have no labels, they lie in no sub-folder; needed is {_LAYOUT}"
        )
    for steps in empty:
        below = steps[1:] if parts and part_of(steps[0]) else steps
        if below:
            classes.setdefault(below[0], [])
    names = tuple(sorted(classes))
    rows = [(label, index, test) for label, name in enumerate(names) for index, test in classes[name]]
    if not labels_needed:
        rows += [(NO_CLASS, index, False) for index in (*unlabelled, *outside)]
        rows.sort(key=lambda row: row[1])
    else:
        for left, where in ((unlabelled, "no class folder"), (outside, "neither part")):
            if left:
                told = listed([paths[index] for index in left])
                warnings.append(f"{counted(len(left), 'image')} left out, lying in {where}: {told}")
        if joined:
            warnings.append(f"{counted(joined, 'image')} of the validation part joined to the training part")
    label, chosen, in_test = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Arrangement(names, chosen, label, in_test.astype(bool), tuple(warnings))


def _strip_wrappers(images: dict[int, list[str]], empty: list[list[str]]) -> None:
    """Drop leading folders that all images share, as archives have, where a class folder is left below."""
    while True:
        first = {steps[0] for steps in images.values()}
        if len(first) > 1 or min(map(len, images.values())) < 3 or part_of(next(iter(first))):
            return
        for steps in (*images.values(), *empty):
            del steps[0]
        empty[:] = [steps for steps in empty if steps]


def _parts(images: dict[int, list[str]], origin: str, labels_needed: bool) -> bool:
    """Whether the first folders are parts, not classes."""
    folders = {steps[0] for steps in images.values() if len(steps) > 1}
    told = {part for part in map(part_of, folders) if part}
    if not told or (len(told) == 1 and len(folders) > 1):
        return False
    if any(part_of(steps[0]) and len(steps) > 2 for steps in images.values()):
        return True
    if len(told) == len(folders):
        if not labels_needed:
            return True
        raise DataError(
            f"{origin}: labels are missing, {listed(sorted(folders))} hold images but no class folders; "
            f"needed is {_LAYOUT}"
        )
    return False


def _is_circle(folder: str, name: str) -> bool:
    link = Path(folder, name)
    return link.is_symlink() and Path(folder).resolve().is_relative_to(link.resolve())


def _cannot_list(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}")
