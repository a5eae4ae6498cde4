"""Files and folders that are written completely or not at all."""

import errno
import hashlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from image_classifier.errors import SettingError

_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def expand_home(path: str) -> Path:
    """The path with ~ resolved; raises SettingError if that user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SettingError(
            f"cannot resolve ~ in {path!r}: that user has no home folder; set HOME, or write the path out"
        ) from None


def sqlite_uri(path: Path) -> str:
    """SQLAlchemy's URI of a SQLite file, in which it decodes escapes and looks for a query.

    With its driver, as MLflow takes the rest of "sqlite:///" for a path and creates its folder without decoding it.
    """
    return f"sqlite+pysqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def release_pages(array: object) -> None:
    """Return the memory that a memory-mapped array, or a view of one, takes in this process; others are left alone.

    The data stays in the file, and in the page cache as long as there is room. Not for copy-on-write mappings.
    """
    mapping = getattr(array, "_mmap", None)
    if isinstance(mapping, mmap.mmap):
        mapping.madvise(mmap.MADV_DONTNEED)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees either the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def folder_written_atomically(path: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `path` when the block ends without an exception.

    A folder cannot replace another in one step: between two renames `path` is missing for a moment, but never partial.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    draft.chmod(0o755)
    try:
        yield draft
        if path.exists():
            replaced = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
            path.replace(replaced)
            draft.replace(path)
            shutil.rmtree(replaced)
        else:
            draft.replace(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def why_unwritten(error: OSError, what: str, place: str, remedy: str) -> str:
    """Why `what` could not be written in `place`; `remedy` says how to choose another place, for example "set home"."""
    # NumPy reports a short write by its length and without an errno.
    if error.errno in _NO_ROOM or "requested and" in str(error):
        return f"no space left for {what} in {place} ({error.strerror or error}); free some space or {remedy}"
    path = error.filename or place
    if error.errno in _READ_ONLY:
        return f"cannot write {path} ({error.strerror}); {remedy} to a writable folder"
    return f"cannot store {what}: {path}: {error.strerror or error}"
