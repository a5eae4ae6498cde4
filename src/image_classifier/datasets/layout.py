"""Layouts of image folders: which folders are classes, and which are parts such as train/ and test/."""

import functools
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.image_source import UNLABELED, ImageSource, Shard
from image_classifier.errors import DataError
from image_classifier.text import counted, listed

AUTO, CLASSES, PARTS, CLASS_FIRST = "auto", "classes", "parts", "class-first"
"""Values of the setting `layout`."""
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
_UNREAD_SUFFIXES = frozenset(
    (".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw")
)
"""Of images that phones, cameras and programs write, and that the decoder does not read."""
_FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF files"
_EXPECTED = f"one subfolder per class, with {_FORMATS}"
_SYSTEM_FILES = ("__MACOSX", "Thumbs.db", "desktop.ini")

_PART_WORDS = {
    word: part
    for part, words in {
        "train": "train training trainset trainval",
        "validation": "val valid validation dev valset",
        "test": "test testing testset holdout heldout",
        "evaluation": "eval evaluation",
        "unlabeled": "unlabeled unlabelled unsup unsupervised",
    }.items()
    for word in words.split()
}
NEUTRAL_WORDS = frozenset(
    str.split("set data dataset image img picture pic photo sample split part folder subset label class metadata x")
)
"""Words that may accompany a part's name, also in the plural, as in `train_images` and `trainLabels.csv`."""
_TRAIN, _VALIDATION, _TEST, _UNLABELED, _OUTSIDE = "train", "validation", "test", "unlabeled", "outside"
NO_IMAGE = -1
_SKIPPED = {
    "outside of the class folders": (_TRAIN, _VALIDATION, _TEST),
    "outside of the train and test folders": (_OUTSIDE,),
    "in the folder of unlabeled images": (_UNLABELED,),
}
"""Why images without a class are skipped, with the parts of such rows."""


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
    reading: str = ""
    """The setting `layout` that gives the same."""

    def source(self, shards: tuple[Shard, ...], names: Sequence[str]) -> ImageSource:
        """The images, which `shards` read in the order of `selected`."""
        return ImageSource(
            self.classes, shards, self.labels, self.in_test, self.in_validation, names, None, self.warnings
        )


@dataclass(frozen=True)
class PartName:
    """What a folder or file name says about a part of the data."""

    part: str
    """"train", "validation", "test", "evaluation" or "unlabeled"."""
    rest: str
    """The other words of the name, in lower case: "" for `train_images`, "seg" for `seg_train`."""


@functools.lru_cache(2**12)
def parse_part_name(name: str) -> PartName | None:
    """Find the word for a part among the words of a name; None if there is none, or if there are several."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.sub(r"\b(hold|held) out\b", r"\1out", " ".join(re.findall(r"[^\W\d_]+", spaced)).casefold()).split()
    parts = {_PART_WORDS[word] for word in words if word in _PART_WORDS}
    if _UNLABELED in parts:
        parts = {_UNLABELED}
    if parts == {_TRAIN, _VALIDATION}:
        parts = {_TRAIN}
    if len(parts) != 1:
        return None
    neutral = (word in _PART_WORDS or word in NEUTRAL_WORDS or word.rstrip("s") in NEUTRAL_WORDS for word in words)
    return PartName(parts.pop(), " ".join(word for word, skip in zip(words, neutral, strict=True) if not skip))


def part_from_name(name: str) -> str | None:
    """The part that a name plainly stands for: "train", "validation", "test", "evaluation", "unlabeled", or None."""
    found = parse_part_name(name)
    return found.part if found and not found.rest else None


def resolve_evaluation(parts: Iterable[str]) -> dict[str, str]:
    """What each part is used as: an evaluation part is the test part, or belongs to validation if there is a test part.

    A held-out part (`holdout`) always belongs to the test part.
    """
    found = set(parts)
    return {part: part for part in found} | {"evaluation": _VALIDATION if _TEST in found else _TEST}


def parts_of_files(names: Sequence[str]) -> list[str]:
    """The part of each file, or "": by a file name such as train-00000-of-00001.parquet, or by the file's folder.

    A name with other words, such as `photos-test.parquet`, counts only if there is a training part as well.
    """
    parts = []
    for name in names:
        path = PurePosixPath(name)
        first = re.split(r"[-_.]", path.name, maxsplit=1)[0]
        found = part_from_name(path.stem) or part_from_name(first) or part_from_name(path.parent.name)
        parts.append(found or "")
    affixed = [parse_part_name(PurePosixPath(name).stem) for name in names]
    if _TRAIN in parts or any(found and found.part == _TRAIN for found in affixed):
        parts = [part or (found.part if found else "") for part, found in zip(parts, affixed, strict=True)]
    used = resolve_evaluation(parts)
    return [used[part] for part in parts]


def is_system_file(path: str) -> bool:
    """Whether a relative path is hidden or was created by an operating system."""
    return any(part.startswith(".") or part in _SYSTEM_FILES for part in path.split("/") if part)


def is_image(path: str) -> bool:
    """Whether a relative path has the suffix of an image format and is not a system file."""
    return not is_system_file(path) and posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES


def _is_unread_image(path: str) -> bool:
    return not is_system_file(path) and posixpath.splitext(path)[1].lower() in _UNREAD_SUFFIXES


def comparable(name: str) -> str:
    """A name as names are compared that differ in case or Unicode normalization only."""
    return unicodedata.normalize("NFC", name).casefold()


class UnlabeledError(DataError):
    """The folders give the images no classes."""

    def __init__(self, origin: str, reason: str) -> None:
        self.reason = f"{origin}: the images have no labels, as {reason}"
        super().__init__(f"{self.reason}; expected {_EXPECTED}, or a table of the labels (--labels)")


class _Entry(NamedTuple):
    """An image, by its index in the paths, or an empty folder (NO_IMAGE), whose last step is ""."""

    image: int
    steps: list[str]


class Row(NamedTuple):
    """The class and part of an image."""

    image: int
    """Index in the paths; NO_IMAGE for a class without images."""
    label: str | None
    """The class; None if it has none."""
    part: str
    """"train", "validation", "test", "unlabeled", or "outside" of the parts."""


_Reading = Callable[[], list[Row]]


class _Tree:
    """The images by top-level folder, as far as the choice of a reading needs it."""

    def __init__(self, entries: list[_Entry]) -> None:
        self.entries = entries
        self.folders: dict[str, Counter[str]] = {}
        """Number of images by folder and subfolder; "" stands for the folder itself."""
        for image, steps in entries:
            if image != NO_IMAGE and len(steps) > 1:
                self.folders.setdefault(steps[0], Counter())[steps[1] if len(steps) > 2 else ""] += 1

    def below(self, folders: Iterable[str]) -> set[str]:
        """The comparable names of the subfolders of these folders."""
        return {comparable(name) for folder in folders for name in self.folders[folder] if name}

    def parts(self) -> dict[str, str]:
        """The top-level folders that may be parts, with their part.

        A name with other words, such as `seg_train`, counts only if another part has the same words, or class folders
        of the same names.
        """
        names = {folder: found for folder in self.folders if (found := parse_part_name(folder))}
        plain = {folder: found.part for folder, found in names.items() if not found.rest}
        labeled = {folder: found for folder, found in names.items() if found.part != _UNLABELED}
        affixed = [folder for folder, found in labeled.items() if found.rest]
        if affixed and self._belong_together(labeled):
            plain |= {folder: labeled[folder].part for folder in affixed}
        used = resolve_evaluation(plain.values())
        return {folder: used[part] for folder, part in plain.items()}

    def _belong_together(self, names: Mapping[str, PartName]) -> bool:
        parts = {found.part for found in names.values()}
        same_words = len({found.rest for found in names.values()}) == 1
        shared = set.intersection(*(self.below([folder]) for folder in names))
        return _TRAIN in parts and len(parts) > 1 and (same_words or bool(shared))


def parse_layout(paths: Sequence[str], origin: str, *, layout: str = AUTO, labels_needed: bool = True) -> Layout:
    """Derive classes and parts from relative paths; a path with a trailing slash is an empty folder.

    Folders above the class folders that contain nothing else are skipped. `origin` is the data's name in messages.
    Images without a class are skipped, or kept as UNLABELED unless `labels_needed`.
    Raises DataError if there is no image; if labels are needed, also if there is no class, or if `layout` is "auto" and
    the folders can be read in two ways.
    """
    require_images(paths, origin, labels_needed=labels_needed)
    entries = [_Entry(index, path.split("/")) for index, path in enumerate(paths) if is_image(path)]
    entries += [_Entry(NO_IMAGE, path.split("/")) for path in paths if path.endswith("/") and not is_system_file(path)]
    _strip_common_folders(entries, stop_at_parts=layout != CLASSES)
    tree = _Tree(entries)
    if layout == AUTO:
        reading, rows = _read_automatically(tree, origin, labels_needed=labels_needed)
    else:
        reading, rows = layout, _read_as(tree, layout, origin)
    if labels_needed and not any(row.label is not None and row.image != NO_IMAGE for row in rows):
        raise UnlabeledError(origin, "they are not in class folders")
    result = build_layout(rows, paths, labels_needed=labels_needed)
    warnings = result.warnings
    if layout == AUTO and reading == CLASSES and labels_needed:
        warnings += _same_subfolders(tree)
    return replace(result, reading=reading, warnings=warnings)


def _same_subfolders(tree: _Tree) -> tuple[str, ...]:
    """A warning about class folders that all contain the same subfolders, as folds of a cross-validation do."""
    below = [tree.below([folder]) for folder in tree.folders]
    if len(below) < 2 or len(below[0]) < 2 or any(names != below[0] for names in below):
        return ()
    return (
        f"the classes are {listed(sorted(tree.folders))}, each with the subfolders {listed(sorted(below[0]))}; if "
        "those are the classes, move them up, else confirm with --layout classes",
    )


def require_images(paths: Sequence[str], origin: str, *, labels_needed: bool) -> None:
    """Raises DataError, which says what there is instead, if no path is an image."""
    if any(map(is_image, paths)):
        return
    others = [path for path in paths if not path.endswith("/")]
    unread = [path for path in others if _is_unread_image(path)]
    reason = f"only {counted(len(others), 'other file')} ({listed(others)})" if others else "it is empty"
    if unread:
        reason = f"only {counted(len(unread), 'image')} to convert to JPEG or PNG ({listed(unread)})"
    raise DataError(f"{origin} has no images: {reason}; expected {_EXPECTED if labels_needed else _FORMATS}")


def build_layout(rows: Sequence[Row], paths: Sequence[str], *, labels_needed: bool, used: Sequence[str] = ()) -> Layout:
    """Order the images by class and number the classes; warnings count what is skipped.

    used: files that are not images, but were read, so that they do not count as skipped.
    """
    classes = tuple(sorted({row.label for row in rows if row.label is not None}))
    number = {name: index for index, name in enumerate(classes)}
    images = [row for row in rows if row.image != NO_IMAGE]
    chosen = sorted(
        (number[row.label], row.image, row.part == _TEST, row.part == _VALIDATION)
        for row in images
        if row.label is not None
    )
    skipped = [row for row in images if row.label is None]
    warnings = []
    others = [path for path in paths if not path.endswith("/") and not is_image(path) and path not in used]
    if unread := [path for path in others if _is_unread_image(path)]:
        warnings.append(f"skipped {counted(len(unread), 'image')} to convert to JPEG or PNG: {listed(unread)}")
    if others := [path for path in others if not _is_unread_image(path)]:
        warnings.append(f"skipped {counted(len(others), 'non-image file')}: {listed(others)}")
    if labels_needed:
        for reason, parts in _SKIPPED.items():
            if names := [paths[row.image] for row in skipped if row.part in parts]:
                warnings.append(f"skipped {counted(len(names), 'image')} {reason}: {listed(names)}")
    else:
        chosen += [(UNLABELED, row.image, False, False) for row in skipped]
        chosen.sort(key=lambda values: values[1])
    labels, selected, *in_parts = np.array(chosen, dtype=np.int64).reshape(-1, 4).T
    in_test, in_validation = np.array(in_parts, dtype=bool)
    return Layout(classes, selected, labels, in_test, in_validation, tuple(warnings))


def _strip_common_folders(entries: list[_Entry], *, stop_at_parts: bool) -> None:
    """Drop leading folders that all images in folders share, as archives have, if a class folder is left below."""
    while True:
        nested = [entry.steps for entry in entries if entry.image != NO_IMAGE and len(entry.steps) > 1]
        first = {steps[0] for steps in nested}
        if len(first) != 1 or min(map(len, nested)) < 3:
            return
        common = first.pop()
        if stop_at_parts and common.casefold() in _PART_WORDS:
            return
        for entry in entries:
            if entry.steps[0] == common and len(entry.steps) > 1:
                del entry.steps[0]


def _read_automatically(tree: _Tree, origin: str, *, labels_needed: bool) -> tuple[str, list[Row]]:
    """The reading of layout=auto and its name. Raises DataError if two are possible and labels are needed."""

    def choose(*names: str) -> tuple[str, list[Row]]:
        if len(names) == 1 or not labels_needed:
            return names[0], readings[names[0]]()
        shown = " or ".join(f"--layout {name} ({_summary(readings[name]())})" for name in names)
        raise DataError(f"{origin}: the folders can be read in two ways; choose {shown}")

    if divided := _split_names(tree):
        return CLASS_FIRST, _read_class_first(divided, ())
    found = tree.parts()
    unlabeled = {folder for folder, part in found.items() if part == _UNLABELED}
    parts = {folder: part for folder, part in found.items() if folder not in unlabeled}
    readings: dict[str, _Reading] = {
        CLASSES: lambda: _read_classes(tree, unlabeled),
        PARTS: lambda: _read_parts(tree, found) if parts else _read_parts_of_sources(tree),
        CLASS_FIRST: lambda: _read_class_first(tree, unlabeled),
    }
    others = tree.folders.keys() - found.keys()
    if not parts:
        return choose(*_nested_readings(tree, others))
    training = {folder for folder, part in parts.items() if part == _TRAIN}
    held_out = parts.keys() - training
    if not others:
        if labels_needed and not tree.below(parts):
            raise UnlabeledError(origin, f"there are no class folders in {listed(sorted(parts))}")
        return choose(PARTS)
    below = tree.below(held_out)
    siblings = {comparable(folder) for folder in others | training}
    if below & siblings and (not tree.below(training) or {comparable(folder) for folder in training} <= below):
        # Class folders next to test/ or validation/ with the same class folders are the training part.
        for folder in training:
            del found[folder]
        return choose(PARTS)
    if tree.below(training) and held_out:
        return choose(PARTS)
    flat_test = any(parts[folder] == _TEST and not tree.below([folder]) for folder in held_out)
    return choose(CLASSES, PARTS) if flat_test or _look_like_parts(tree, parts, others) else choose(CLASSES)


def _look_like_parts(tree: _Tree, parts: Iterable[str], others: Iterable[str]) -> bool:
    """Whether the folders named like parts may be parts by what is below them, unlike or like the other folders."""
    below = tree.below(parts)
    structured = len(below) > 1 and not any(tree.folders[folder][""] for folder in parts)
    shared = below & ({comparable(folder) for folder in others} | tree.below(others))
    return structured and (bool(shared) or any(not tree.below([folder]) for folder in others))


def _nested_readings(tree: _Tree, folders: Iterable[str]) -> tuple[str, ...]:
    """How folders that are not parts can be read, considering the parts in them."""
    divided = {folder: _parts_below(tree, folder) for folder in folders}
    training = [_TRAIN in parts.values() for parts in divided.values()]
    held_out = [any(part not in (_TRAIN, _UNLABELED) for part in parts.values()) for parts in divided.values()]
    if not any(map(all, zip(training, held_out, strict=True))) and not (len(divided) > 1 and all(held_out)):
        return (CLASSES,)
    if _classes_below_parts(tree, divided):
        return (PARTS, CLASS_FIRST)
    complete = all(tree.folders[folder].keys() <= parts.keys() for folder, parts in divided.items())
    return (CLASS_FIRST,) if complete and any(training) else (CLASSES, CLASS_FIRST)


def _split_names(tree: _Tree) -> _Tree | None:
    """The same images with the folders `cat_train` and `cat_test` as `cat/train` and `cat/test`.

    None unless all folders are such, of several classes that have a training part and a part to test on.
    """
    if set.intersection(*(tree.below([folder]) for folder in tree.folders)) if tree.folders else True:
        return None
    parts: dict[str, set[str]] = {}
    split: dict[str, list[str]] = {}
    for folder in tree.folders:
        found = parse_part_name(folder)
        word = re.search(rf"[-_. ]*(?i:{'|'.join(_PART_WORDS)})(?=[-_. ]|$)[-_. ]*", folder)
        if found is None or not found.rest or word is None or found.part == _UNLABELED:
            return None
        name = (folder[: word.start()] + " " + folder[word.end() :]).strip()
        split[folder] = [name, found.part]
        parts.setdefault(name, set()).add(found.part)
    if len(parts) < 2 or not all(_TRAIN in each and len(each) > 1 for each in parts.values()):
        return None
    return _Tree([_Entry(image, [*split.get(steps[0], steps[:1]), *steps[1:]]) for image, steps in tree.entries])


def _parts_below(tree: _Tree, folder: str) -> dict[str, str]:
    """The subfolders that are parts, with their part; `cat_train` is one below `cat`."""
    words = " ".join(re.findall(r"[^\W\d_]+", folder)).casefold()
    names = {name: parse_part_name(name) for name in tree.folders[folder] if name}
    return {name: found.part for name, found in names.items() if found and found.rest in ("", words)}


def _classes_below_parts(tree: _Tree, divided: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether the parts below the top-level folders have subfolders of the same names, as if those were the classes."""
    below: dict[tuple[str, str], set[str]] = {}
    for image, steps in tree.entries:
        if image != NO_IMAGE and len(steps) > 3 and steps[1] in divided.get(steps[0], ()):
            below.setdefault((steps[0], steps[1]), set()).add(comparable(steps[2]))
    return len(below) > 1 and len(set.intersection(*below.values())) > 1


def _read_as(tree: _Tree, layout: str, origin: str) -> list[Row]:
    """The reading that the user chose. Raises DataError if the folders do not have it."""
    if layout == CLASSES:
        return _read_classes(tree, ())
    if layout == CLASS_FIRST and (divided := _split_names(tree)):
        return _read_class_first(divided, ())
    nested = any(_parts_below(tree, folder) for folder in tree.folders)
    if layout == CLASS_FIRST:
        if not nested:
            raise DataError(f"{origin}: layout is {layout}, but no class folder has a subfolder such as train or test")
        return _read_class_first(tree, ())
    names = {folder: found.part for folder in tree.folders if (found := parse_part_name(folder))}
    if set(names.values()) - {_UNLABELED}:
        used = resolve_evaluation(names.values())
        return _read_parts(tree, {folder: used[part] for folder, part in names.items()})
    if nested:
        return _read_parts_of_sources(tree)
    raise DataError(
        f"{origin}: layout is {layout}, but none of the folders has the name of a part, such as train or test: "
        f"{listed(sorted(tree.folders)) or 'there are none'}"
    )


def _read_classes(tree: _Tree, unlabeled: Iterable[str]) -> list[Row]:
    """Each top-level folder is a class."""
    return [
        Row(image, None, _UNLABELED)
        if _is_unlabeled(steps, unlabeled)
        else Row(image, steps[0] if len(steps) > 1 else None, _TRAIN)
        for image, steps in tree.entries
    ]


def _read_parts(tree: _Tree, parts: Mapping[str, str]) -> list[Row]:
    """Top-level folders are parts, with the classes below; without a training part, the others are its classes.

    A folder `train` without class folders is such a class, too, if there are others.
    """
    if tree.folders.keys() - parts.keys():
        parts = {folder: part for folder, part in parts.items() if part != _TRAIN or tree.below([folder])}
    has_training = _TRAIN in parts.values()
    repeated = _repeated_folders(tree, parts)
    rows = []
    for image, steps in tree.entries:
        part = parts.get(steps[0], _OUTSIDE if has_training else _TRAIN)
        below = steps[1:] if steps[0] in parts else steps
        if len(below) > 1 and below[0] == repeated.get(steps[0]):
            below = below[1:]
        if len(below) > 1 and part_from_name(below[0]) == _UNLABELED:
            part = _UNLABELED
        labeled = part not in (_OUTSIDE, _UNLABELED) and len(below) > 1
        rows.append(Row(image, below[0] if labeled else None, part))
    return rows


def _read_parts_of_sources(tree: _Tree) -> list[Row]:
    """Top-level folders are sources of images, each with parts that have the classes below."""
    below = _Tree([_Entry(image, steps[1:] if len(steps) > 1 else steps) for image, steps in tree.entries])
    return _read_parts(below, below.parts())


def _repeated_folders(tree: _Tree, parts: Mapping[str, str]) -> dict[str, str]:
    """The only subfolder of each part, if none of them is a class: `train/train/cat`, `train/images/cat`."""
    only: dict[str, str] = {}
    for folder, part in parts.items():
        if part == _UNLABELED:
            continue
        names = list(tree.folders[folder])
        found = parse_part_name(names[0])
        words = {word.rstrip("s") for word in re.findall(r"[^\W\d_]+", names[0].casefold())}
        if len(names) > 1 or not (found == parse_part_name(folder) or (words and words <= NEUTRAL_WORDS)):
            return {}
        only[folder] = names[0]
    return only


def _read_class_first(tree: _Tree, unlabeled: Iterable[str]) -> list[Row]:
    """Each top-level folder is a class; its subfolders named like parts are its parts, and the rest is for training."""
    below = {folder: _parts_below(tree, folder) for folder in tree.folders}
    used = resolve_evaluation(part for parts in below.values() for part in parts.values())
    rows = []
    for image, steps in tree.entries:
        part = below.get(steps[0], {}).get(steps[1], _TRAIN) if len(steps) > 2 else _TRAIN
        if part == _UNLABELED or _is_unlabeled(steps, unlabeled):
            rows.append(Row(image, None, _UNLABELED))
        else:
            rows.append(Row(image, steps[0] if len(steps) > 1 else None, used.get(part, part)))
    return rows


def _is_unlabeled(steps: Sequence[str], unlabeled: Iterable[str]) -> bool:
    return len(steps) > 1 and steps[0] in unlabeled


def _summary(rows: Sequence[Row]) -> str:
    """ "2 classes: cat, dog; 20 training images, 4 test images, 1 image without a class"."""
    images = [row for row in rows if row.image != NO_IMAGE]
    classes = sorted({row.label for row in images if row.label is not None})
    counts = Counter(row.part for row in images if row.label is not None)
    nouns = {_TRAIN: "training image", _VALIDATION: "validation image", _TEST: "test image"}
    shown = [counted(counts[part], noun) for part, noun in nouns.items() if counts[part]]
    if skipped := sum(row.label is None for row in images):
        shown.append(f"{counted(skipped, 'image')} without a class")
    return f"{counted(len(classes), 'class')}: {listed(classes)}; {', '.join(shown)}"
