"""Checks of a data set's images: which are skipped, what makes the data unusable, and what is worth a warning."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_classifier.datasets.image_source import ImageSource
from image_classifier.datasets.shard_decoding import DecodedImages
from image_classifier.errors import DataError
from image_classifier.images import CROP, PAD
from image_classifier.text import counted, listed

MAX_CLASS_RATIO = 20
"""Ratio of the sizes of the largest and another class above which the other one may rarely be recognized."""


@dataclass
class UsableRows:
    """The images of a source that are kept, and the warnings so far."""

    kept: NDArray[np.bool_]
    """bool [N]"""
    labels: NDArray[np.int64]
    """int64 [N], indices into the classes; of kept images only."""
    classes: tuple[str, ...]
    warnings: list[str]


def select_readable(source: ImageSource, decoded: DecodedImages, origin: str) -> UsableRows:
    """Keep the images that have a label and can be decoded. Raises DataError if none remain or more than half fail."""
    total, failed = len(source.labels), len(decoded.errors)
    warnings = list(source.warnings)
    if failed:
        shown = listed([f"{source.names[row]} ({reason})" for row, reason in decoded.errors.items()])
        if 2 * failed > total:
            raise DataError(f"{origin}: {failed:,} of {total:,} images cannot be read: {shown}")
        warnings.append(f"skipped {counted(failed, 'image')} that cannot be read: {shown}")
    kept = source.labels >= 0
    kept[list(decoded.errors)] = False
    if not kept.any():
        raise DataError(f"{origin}: no image has a usable label; {'; '.join(warnings) or 'it is empty'}")
    return UsableRows(kept, source.labels.copy(), source.classes, warnings)


def drop_untrained_classes(
    rows: UsableRows, in_test: NDArray[np.bool_], in_validation: NDArray[np.bool_], origin: str
) -> None:
    """Drop the classes without training images, and renumber the others.

    Raises DataError if no class has training images, or if fewer than two remain.
    """
    count = len(rows.classes)
    tested, validated = (
        np.bincount(rows.labels[part & rows.kept], minlength=count) for part in (in_test, in_validation)
    )
    held_out = tested + validated
    trained = np.bincount(rows.labels[rows.kept], minlength=count) > held_out
    parts = {"test": int(tested[~trained].sum()), "validation": int(validated[~trained].sum())}
    if not trained.any():
        raise DataError(
            f"{origin} has {' and '.join(part for part in parts if parts[part])} images, but no training images"
        )
    empty = [name for name, some, n in zip(rows.classes, trained, held_out, strict=True) if not some | n]
    untrained = [name for name, some, n in zip(rows.classes, trained, held_out, strict=True) if n and not some]
    if empty:
        rows.warnings.append(f"skipped {counted(len(empty), 'class')} without images: {listed(empty)}")
    if untrained:
        rows.warnings.append(
            f"skipped {counted(len(untrained), 'class')} without training images, with "
            f"{' and '.join(counted(n, f'{part} image') for part, n in parts.items() if n)}: {listed(untrained)}"
        )
    present = [name for name, some in zip(rows.classes, trained, strict=True) if some]
    if len(present) < 2:
        raise DataError(f"{origin} has images of only one class ({listed(present)}); at least two are required")
    renumbered = np.where(trained, np.cumsum(trained) - 1, -1)
    rows.labels[rows.kept] = renumbered[rows.labels[rows.kept]]
    rows.kept &= rows.labels >= 0
    rows.classes = tuple(present)


def require_two_images_per_class(rows: UsableRows, origin: str) -> None:
    """Raises DataError if a class has a single image, which cannot be in both parts."""
    counts = np.bincount(rows.labels[rows.kept], minlength=len(rows.classes))
    single = [name for name, n in zip(rows.classes, counts, strict=True) if n == 1]
    if single:
        raise DataError(
            f"{origin}: {counted(len(single), 'class')} with a single image, but training and test need one each: "
            f"{listed(single)}; add images, or remove the class"
        )


def untested_class_warnings(
    rows: UsableRows, in_test: NDArray[np.bool_], source: ImageSource, hashes: NDArray[np.uint64], *, derived: bool
) -> list[str]:
    """About the classes without test images, one warning for each reason.

    hashes: uint64 [N, 4], of the encoded images. `derived`: the test part was chosen from the training part.
    """
    tests = np.bincount(rows.labels[in_test], minlength=len(rows.classes))
    in_test_part = {source.classes[label] for label in source.labels[source.in_test] if label >= 0}
    by_reason: dict[str, list[str]] = {}
    for label in np.flatnonzero(tests == 0):
        name = rows.classes[label]
        if derived:
            images = hashes[rows.kept & ~source.in_validation & (rows.labels == label)]
            reason = "each of their images is also in another class"
            if len(images) == 1:
                reason = "each has a single training image"
            elif len(np.unique(images, axis=0)) == 1:
                reason = "the training images of each are identical"
        else:
            reason = "the test part has none"
            if name in in_test_part:
                reason = "those in the test part cannot be read"
        by_reason.setdefault(reason, []).append(name)
    return [
        f"{counted(len(names), 'class')} without test images ({reason}): {listed(names)}"
        for reason, names in by_reason.items()
    ]


def duplicate_warnings(
    rows: UsableRows, in_test: NDArray[np.bool_], hashes: NDArray[np.uint64], names: Sequence[str]
) -> list[str]:
    """About identical images in both parts, in several classes, or within a class of the training part.

    hashes: uint64 [N, 4], of the encoded images.
    """
    kept = np.flatnonzero(rows.kept)
    order = kept[np.lexsort((*hashes[kept].T[::-1],))]
    same = (hashes[order[1:]] == hashes[order[:-1]]).all(axis=1)
    if not same.any():
        return []
    group = np.concatenate([[0], np.cumsum(~same)])
    warnings = []
    tests = np.bincount(group, weights=in_test[order])
    leaked = order[((tests > 0) & (tests < np.bincount(group)))[group] & in_test[order]]
    if len(leaked):
        shown = listed([names[row] for row in np.sort(leaked)])
        images = counted(len(leaked), "test image")
        warnings.append(f"{images} identical to training images, which inflates the accuracy: {shown}")
    labels = rows.labels[order]
    first = np.concatenate([[True], ~same])
    differs = np.bincount(group, weights=labels != labels[first][group]) > 0
    contradictory = order[differs[group]]
    if len(contradictory):
        shown = listed([names[row] for row in np.sort(contradictory)])
        warnings.append(f"{counted(len(contradictory), 'image')} identical to images of another class: {shown}")
    trained = ~in_test[order]
    _, original = np.unique(np.stack([group, labels])[:, trained], axis=1, return_index=True)
    copies = np.delete(order[trained], original)
    if len(copies):
        shown = listed([names[row] for row in np.sort(copies)])
        images = counted(len(copies), "training image")
        warnings.append(f"{images} of {trained.sum():,} identical to others of the same class: {shown}")
    return warnings


def class_balance_warnings(rows: UsableRows, in_test: NDArray[np.bool_]) -> list[str]:
    """About classes that have so few training images beside the largest class that they are rarely recognized."""
    counts = np.bincount(rows.labels[rows.kept & ~in_test], minlength=len(rows.classes))
    small = np.flatnonzero(MAX_CLASS_RATIO * counts < counts.max())
    if not len(small):
        return []
    shown = listed([f"{rows.classes[label]} ({counts[label]:,})" for label in small[np.argsort(counts[small])]])
    largest = int(counts.argmax())
    return [
        f"{counted(len(small), 'class')} with less than {100 / MAX_CLASS_RATIO:.0f} % of the training images of the "
        f"largest class, {rows.classes[largest]} ({counts[largest]:,}), so they may rarely be recognized; add images "
        f"of them: {shown}"
    ]


def blank_warnings(blank: NDArray[np.bool_], names: Sequence[str], framing: str = CROP) -> list[str]:
    """About images that show nothing. blank: bool [N], whether the pixels of a kept image are all equal."""
    rows = np.flatnonzero(blank)
    if not len(rows):
        return []
    shown = listed([names[row] for row in rows.tolist()])
    cut = " and the center was cut out" if framing != PAD else ""
    return [
        f"{counted(len(rows), 'image')} of a single color, after transparent pixels became white{cut}; check them: "
        f"{shown}"
    ]


def kept_by_crop(dimensions: NDArray[np.int32]) -> NDArray[np.float64]:
    """The fraction of each image that is within its center square, float64 [N]; with padding, of the square that it
    fills. dimensions: int32 [N, 2 or more], stored width and height first.
    """
    sides = np.sort(dimensions[:, :2], axis=1)
    return np.asarray(sides[:, 0] / sides[:, 1])


def resize_warnings(dimensions: NDArray[np.int32], size: int, framing: str = CROP) -> list[str]:
    """dimensions: int32 [N, 2], stored width and height; size: the side in pixels that the images were resized to."""
    (min_width, min_height), (max_width, max_height) = dimensions.min(axis=0), dimensions.max(axis=0)
    if (min_width, min_height, max_width, max_height) == (size,) * 4:
        return []
    kept = kept_by_crop(dimensions)
    oblong = int((kept < 1).sum())
    framed = ""
    if oblong:
        used = 100 * float(np.median(kept[kept < 1]))
        framed = f"; {counted(oblong, 'image')} not square, so only the center is used: {used:.0f} % of the median one"
        if framing == PAD:
            framed = (
                f"; {counted(oblong, 'image')} not square, so the square is filled up with gray: the median one takes "
                f"{used:.0f} % of it"
            )
    images = counted(len(dimensions), "image")
    if (min_width, min_height) == (max_width, max_height):
        return [f"resized {images} from {min_width} x {min_height} to {size} x {size}{framed}"]
    return [
        f"resized {images} of different sizes, {_range(min_width, max_width)} pixels wide and "
        f"{_range(min_height, max_height)} high, to {size} x {size} (set image_size to change that){framed}"
    ]


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"
