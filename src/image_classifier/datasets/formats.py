"""Find a data set where its name says, and tell its format from the content and the layout."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from image_classifier.datasets.archive import is_archive, read_archive, unpack
from image_classifier.datasets.cifar import Batch, is_batch, read_batches
from image_classifier.datasets.digits import read_digits
from image_classifier.datasets.fetch import fetch, is_remote
from image_classifier.datasets.folder import list_files, read_folder
from image_classifier.datasets.idx import idx_files, read_idx
from image_classifier.datasets.image_source import ImageSource
from image_classifier.datasets.parquet import read_parquet
from image_classifier.datasets.public_datasets import Known, fetch_known
from image_classifier.errors import DataError
from image_classifier.settings import Settings

DIGITS = "digits"
_PARQUET_MAGIC = b"PAR1"


def locate(settings: Settings, fetched: Path, known: Mapping[str, Known]) -> Path | None:
    """The local file or folder, fetched if need be; None for the embedded digits."""
    name = settings.data
    if name == DIGITS:
        return None
    if name in known:
        return fetch_known(name, known[name], fetched, settings.fetch_timeout, settings.max_data)
    if is_remote(name):
        return fetch(name, fetched, settings.fetch_timeout, settings.max_data)
    parts = urlsplit(name)
    path = Path(unquote(parts.path)) if parts.scheme == "file" else Path(name).expanduser()
    if not path.exists():
        raise DataError(
            f"there is no data set, file or folder {name!r}; give {DIGITS}, {', '.join(known)}, a folder "
            "with one sub-folder a class, a zip or tar of one, a parquet file, a folder of IDX files, or an "
            "s3://, gs:// or https:// address"
        )
    return path.absolute()


def stamps_of(path: Path | None) -> list[tuple[str, str, int, int]]:
    """Paths, sizes and times of the source's files: as cheap a sign of change as there is."""
    if path is None:
        return []
    files = [path / name for name in list_files(path)] if path.is_dir() else [path]
    # A link that leads nowhere is told of when it is read.
    stats = [(file, file.stat() if file.exists() else file.lstat()) for file in files]
    return [(str(path), str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def read_source(
    path: Path | None, scratch: Path, max_data: int, *, labels_needed: bool = True
) -> ImageSource:
    """Recognise the format from the content and the layout. None is the embedded digits.

    What has to be unpacked goes into the folder `scratch`, which must outlast the source. Without `labels_needed`
    images that have no label, or one that cannot be used, are kept with NO_CLASS.
    Raises DataError for what is no data set.
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
        batches = [
            Batch(member.name, spool, member.offset, member.size)
            for member in members
            if is_batch(member.name)
        ]
        if batches:
            return read_batches(batches)
        return read_archive(path, spool, members, labels_needed=labels_needed)
    raise DataError(
        f"{path} is neither a folder nor a zip, tar or parquet file; for IDX files give their folder"
    )


def _read_folder(path: Path, scratch: Path, max_data: int, labels_needed: bool) -> ImageSource:
    paths = list_files(path)
    if images := idx_files(paths):
        return read_idx(path, images, scratch, max_data)
    if tables := [path / name for name in paths if name.endswith(".parquet")]:
        return read_parquet(tables, labels_needed=labels_needed)
    if batches := [name for name in paths if is_batch(name)]:
        return read_batches([Batch(name, path / name, 0, (path / name).stat().st_size) for name in batches])
    if len(paths) == 1 and is_archive(path / paths[0]):
        return read_source(path / paths[0], scratch, max_data, labels_needed=labels_needed)
    return read_folder(path, paths, labels_needed=labels_needed)
