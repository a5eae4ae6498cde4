"""Data formats: recognize a data set's format from its content and layout, and call the format's reader."""

from pathlib import Path

from image_classifier.datasets.archive import is_archive, read_archive, unpack
from image_classifier.datasets.cifar import BatchFile, is_batch_file, read_batches
from image_classifier.datasets.class_names import normalize_names
from image_classifier.datasets.digits import read_digits
from image_classifier.datasets.folder import list_files, read_folder
from image_classifier.datasets.idx import idx_files, read_idx
from image_classifier.datasets.image_source import ImageSource
from image_classifier.datasets.labeling import DEFAULT_OPTIONS, LabelOptions
from image_classifier.datasets.layout import is_image
from image_classifier.datasets.parquet import dataset_tables, read_parquet, with_warning_about_images
from image_classifier.errors import DataError

_PARQUET_MAGIC = b"PAR1"


def read_source(
    path: Path | None,
    scratch: Path,
    max_data: int,
    options: LabelOptions = DEFAULT_OPTIONS,
    *,
    labels_needed: bool = True,
) -> ImageSource:
    """Find the images and labels in a file or folder; None stands for the embedded digits.

    Compressed data is unpacked into the folder `scratch`, at most `max_data` bytes of it; the folder must exist as long
    as the source is used. Unless `labels_needed`, images without a usable label are kept as UNLABELED.
    Raises DataError if the format is not recognized, the data is damaged, or the labels are not clear.
    """
    return normalize_names(_read_format(path, scratch, max_data, options, labels_needed))


def _read_format(
    path: Path | None, scratch: Path, max_data: int, options: LabelOptions, labels_needed: bool
) -> ImageSource:
    if path is None:
        _require_own_labels("digits", options, "labels", "label_column")
        return read_digits(scratch)
    if path.is_dir():
        return _read_folder(path, scratch, max_data, options, labels_needed)
    with path.open("rb") as file:
        magic = file.read(len(_PARQUET_MAGIC))
    if magic == _PARQUET_MAGIC:
        _require_own_labels(path, options, "labels")
        return read_parquet([path], labels_needed=labels_needed, label_column=options.label_column)
    if is_archive(path):
        spool = scratch / "members"
        members = unpack(path, spool, max_data)
        files = [BatchFile(member.name, spool, member.offset, member.size) for member in members]
        if batches := [file for file in files if is_batch_file(file.name)]:
            _require_own_labels(path, options, "labels", "label_column")
            return read_batches(batches)
        return read_archive(path, spool, members, options, labels_needed=labels_needed)
    raise DataError(
        f"{path} is neither a folder nor a zip, tar or parquet file; for IDX files use the folder that contains them"
    )


def _read_folder(path: Path, scratch: Path, max_data: int, options: LabelOptions, labels_needed: bool) -> ImageSource:
    paths = list_files(path)
    if images := idx_files(paths):
        _require_own_labels(path, options, "labels", "label_column")
        return read_idx(path, images, scratch, max_data)
    if tables := dataset_tables(path, paths):
        _require_own_labels(path, options, "labels")
        source = read_parquet(tables, labels_needed=labels_needed, label_column=options.label_column)
        return with_warning_about_images(source, [name for name in paths if is_image(name)])
    if batches := [name for name in paths if is_batch_file(name)]:
        _require_own_labels(path, options, "labels", "label_column")
        return read_batches([BatchFile(name, path / name, 0, (path / name).stat().st_size) for name in batches])
    if len(paths) == 1 and is_archive(path / paths[0]):
        return _read_format(path / paths[0], scratch, max_data, options, labels_needed)
    return read_folder(path, paths, options, labels_needed=labels_needed)


def _require_own_labels(data: Path | str, options: LabelOptions, *unused: str) -> None:
    """Raises DataError if one of these options is set, although the data's format has the labels in itself."""
    for name in unused:
        if getattr(options, name):
            raise DataError(
                f"{name} is {getattr(options, name)}, but the images of {data} are stored with their labels"
            )
