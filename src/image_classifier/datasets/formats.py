"""Data formats: recognize a data set's format from its content and layout, and call the format's reader."""

from pathlib import Path

from image_classifier.datasets.archive import is_archive, read_archive, unpack
from image_classifier.datasets.cifar import BatchFile, is_batch_file, read_batches
from image_classifier.datasets.digits import read_digits
from image_classifier.datasets.folder import list_files, read_folder
from image_classifier.datasets.idx import idx_files, read_idx
from image_classifier.datasets.image_source import ImageSource
from image_classifier.datasets.parquet import read_parquet
from image_classifier.errors import DataError

_PARQUET_MAGIC = b"PAR1"


def read_source(path: Path | None, scratch: Path, max_data: int, *, labels_needed: bool = True) -> ImageSource:
    """Find the images and labels in a file or folder; None stands for the embedded digits.

    Compressed data is unpacked into the folder `scratch`, at most `max_data` bytes of it; the folder must exist as long
    as the source is used. Unless `labels_needed`, images without a usable label are kept as UNLABELED.
    Raises DataError if the format is not recognized or the data is damaged.
    """
    if path is None:
        return read_digits(scratch)
    if path.is_dir():
        return _read_folder(path, scratch, max_data, labels_needed)
    with path.open("rb") as file:
        magic = file.read(len(_PARQUET_MAGIC))
    if magic == _PARQUET_MAGIC:
        return read_parquet([path], labels_needed=labels_needed)
    if is_archive(path):
        spool = scratch / "members"
        members = unpack(path, spool, max_data)
        files = [BatchFile(member.name, spool, member.offset, member.size) for member in members]
        if batches := [file for file in files if is_batch_file(file.name)]:
            return read_batches(batches)
        return read_archive(path, spool, members, labels_needed=labels_needed)
    raise DataError(
        f"{path} is neither a folder nor a zip, tar or parquet file; for IDX files use the folder that contains them"
    )


def _read_folder(path: Path, scratch: Path, max_data: int, labels_needed: bool) -> ImageSource:
    paths = list_files(path)
    if images := idx_files(paths):
        return read_idx(path, images, scratch, max_data)
    if tables := [path / name for name in paths if name.endswith(".parquet")]:
        return read_parquet(tables, labels_needed=labels_needed)
    if batches := [name for name in paths if is_batch_file(name)]:
        return read_batches([BatchFile(name, path / name, 0, (path / name).stat().st_size) for name in batches])
    if len(paths) == 1 and is_archive(path / paths[0]):
        return read_source(path / paths[0], scratch, max_data, labels_needed=labels_needed)
    return read_folder(path, paths, labels_needed=labels_needed)
