"""Files and folders that appear whole or not at all."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 2**20
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
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
    """Yield an empty folder that takes the place of `path` when the block ends without an exception.

    A folder cannot replace another in one step: for a moment between two renames `path` is absent, but it
    never holds a mixture or a part.
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
    """Why `what` could not be written in `place`, as a message; `remedy` says how to name another, e.g. "set home"."""
    # numpy says of a short write how much was written, and gives no number.
    if error.errno in _NO_ROOM or "requested and" in str(error):
        return f"there is no room for {what} in {place} ({error.strerror or error}); free some or {remedy}"
    named = error.filename or place
    if error.errno in _READ_ONLY:
        return f"{named} cannot be used ({error.strerror}); {remedy} to a folder that can be written"
    return f"{what} cannot be kept: {named}: {error.strerror or error}"
