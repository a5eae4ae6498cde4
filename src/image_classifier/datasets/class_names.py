"""Names of classes and images, normalized for all formats, so that they can be compared, printed and stored."""

import unicodedata
from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.image_source import UNLABELED, ImageSource
from image_classifier.errors import DataError
from image_classifier.text import counted, is_utf8, listed, readable


def normalize_names(source: ImageSource) -> ImageSource:
    """Returns the source with class names in Unicode's form NFC, without surrounding blanks, and readable image names.

    macOS stores `é` as two characters, and an archive made there keeps them; so classes whose names are equal after the
    normalization are merged. The shards still read the files by their original names.
    """
    renamed = [unicodedata.normalize("NFC", readable(name.strip())) for name in source.classes]
    classes = list(dict.fromkeys(renamed))
    if list(source.classes) == sorted(source.classes):
        classes.sort()
    places = {name: place for place, name in enumerate(classes)}
    index = np.array([*(places[name] for name in renamed), UNLABELED], np.int64)
    warnings = [readable(warning) for warning in source.warnings]
    merged = sorted(name for name, spellings in Counter(renamed).items() if spellings > 1)
    if merged:
        warnings.append(
            f"merged {counted(len(merged), 'class')} with names written in different ways: {listed(merged)}"
        )
    names = [readable(name) for name in source.names]
    decoded = [new for old, new in zip(source.names, names, strict=True) if not is_utf8(old)]
    if decoded:
        images = f"{counted(len(decoded), 'image')} with a name that is not UTF-8"
        warnings.append(f"{images}, shown as in Windows-1252: {listed(decoded)}")
    # The last entry of the index maps UNLABELED to itself.
    return replace(source, classes=tuple(classes), labels=index[source.labels], names=names, warnings=tuple(warnings))


def require_distinct_names(
    classes: tuple[str, ...],
    labels: NDArray[np.int64],
    in_test: NDArray[np.bool_],
    in_validation: NDArray[np.bool_],
    origin: str,
) -> None:
    """Raises DataError if a class has a blank name, or if two class names differ only in upper and lower case.

    Names of a single character may differ in case if both have training images: they are letters to recognize.
    labels, in_test, in_validation: of the usable images, [N].
    """
    parts = {"training": ~(in_test | in_validation), "validation": in_validation, "test": in_test}
    counts = {part: np.bincount(labels[rows], minlength=len(classes)) for part, rows in parts.items()}
    by_lower: dict[str, list[int]] = {}
    for label in np.unique(labels):
        by_lower.setdefault(classes[label].lower(), []).append(int(label))
    if "" in by_lower:
        images = _count_images(by_lower[""][0], counts)
        raise DataError(f"{origin}: the name of a class with {images} is blank; give the class a name")
    for lower, same in by_lower.items():
        if len(same) == 1 or (len(lower) == 1 and all(counts["training"][label] for label in same)):
            continue
        shown = " and ".join(f"{classes[label]} ({_count_images(label, counts)})" for label in same)
        raise DataError(
            f"{origin}: the classes {shown} differ only in upper and lower case; give them the same name if they are "
            "one class, else names that differ more"
        )


def _count_images(label: int, counts: dict[str, NDArray[np.int64]]) -> str:
    return " and ".join(counted(int(count[label]), f"{part} image") for part, count in counts.items() if count[label])
