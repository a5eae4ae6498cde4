"""Data format: folders of image files, with the labels in the names of folders or in tables."""

import os
from collections.abc import Sequence
from pathlib import Path

from image_classifier.datasets.image_source import FileShard, ImageSource
from image_classifier.datasets.labeling import LabelOptions, find_labels
from image_classifier.datasets.layout import is_system_file
from image_classifier.errors import DataError

FILES_PER_SHARD = 256


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


def read_folder(root: Path, paths: Sequence[str], options: LabelOptions, *, labels_needed: bool = True) -> ImageSource:
    """Find the images of a folder; `paths` is the result of `list_files`. Raises DataError if there are none."""

    def read(name: str, most: int) -> bytes:
        if not (root / name).is_file():
            raise DataError(f"{root / name} is not a regular file")
        try:
            with (root / name).open("rb") as file:
                return file.read(most)
        except OSError as error:
            raise DataError(f"{root / name} cannot be read: {error.strerror}") from None

    layout = find_labels(paths, str(root), read, options, labels_needed=labels_needed)
    names = [paths[index] for index in layout.selected]
    shards = tuple(
        FileShard(tuple(str(root / name) for name in names[first : first + FILES_PER_SHARD]))
        for first in range(0, len(names), FILES_PER_SHARD)
    )
    return layout.source(shards, names)


def _is_cyclic_link(folder: str, name: str) -> bool:
    link = Path(folder, name)
    if not link.is_symlink():
        return False
    target = link.resolve()
    # Also the parents on the path that was followed: two folders may have links to each other.
    return any(above.resolve().is_relative_to(target) for above in (Path(folder), *Path(folder).parents))


def _raise_unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}")
