"""Location of a data set: from its name, path or URL to local files, downloaded if necessary."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from image_classifier.datasets.folder import list_files
from image_classifier.datasets.public_datasets import PublicDataset, fetch_public_dataset
from image_classifier.datasets.remote_files import fetch, is_remote
from image_classifier.errors import DataError
from image_classifier.files import expand_home
from image_classifier.text import without_credentials

DIGITS = "digits"


def locate(
    data: str, downloads: Path, public: Mapping[str, PublicDataset], timeout: float, max_data: int
) -> Path | None:
    """Returns the local file or folder of a data set; None for the embedded digits.

    data: `digits`, the name of a `public` data set, a path, or a URL.
    downloads: folder for downloaded files; a download takes at most `timeout` seconds and `max_data` bytes.
    Raises DataError if the data set does not exist or cannot be downloaded.
    """
    if data == DIGITS:
        return None
    if data in public:
        return fetch_public_dataset(data, public[data], downloads, timeout, max_data)
    if is_remote(data):
        return fetch(data, downloads, timeout, max_data)
    parts = urlsplit(data)
    path = Path(unquote(parts.path)) if parts.scheme == "file" else expand_home(data)
    if not path.exists():
        raise DataError(
            f"there is no data set, file or folder {without_credentials(data)!r}; use {DIGITS}, "
            f"{', '.join(public)}, a folder with one subfolder per class, a zip or tar archive of it, a parquet file, "
            "a folder of IDX files, or an s3://, gs:// or https:// URL"
        )
    return path.absolute()


def file_stamps(path: Path | None) -> list[tuple[str, str, int, int]]:
    """Returns root, path, size in bytes and modification time in ns of each file: a cheap way to detect changes."""
    if path is None:
        return []
    files = [path / name for name in list_files(path)] if path.is_dir() else [path]
    # A broken link is reported when it is read.
    stats = [(file, file.stat() if file.exists() else file.lstat()) for file in files]
    return [(str(path), str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def table_stamps(labels: str) -> list[tuple[str, str, int, int]]:
    """The stamp of a table of labels outside of the data; those of the data have the stamps of other files."""
    path = expand_home(labels)
    return file_stamps(path.absolute()) if labels and path.is_file() else []
