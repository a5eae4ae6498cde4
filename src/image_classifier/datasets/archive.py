"""Data format: zip and tar archives. Members are streamed into one file, never extracted to paths of their own."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from image_classifier.datasets.folder import FILES_PER_SHARD, is_image, is_system_file, parse_layout
from image_classifier.datasets.image_source import ByteRangeShard, ImageSource
from image_classifier.errors import DataError

MAX_COMPRESSION_RATIO = 200
"""Images hardly compress; a decompression bomb has a ratio of 1,000."""
_RATIO_CHECKED_FROM_BYTES = 2**24
_CHUNK_BYTES = 2**20
_TAR_BLOCK_BYTES = 512
_FORMAT_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
_READ_ERRORS = (*_FORMAT_ERRORS, EOFError, RuntimeError, OSError, ValueError)


@dataclass(frozen=True)
class Member:
    """A file of an archive, with offset and size of its bytes in the spool file; size 0 if it was not kept."""

    name: str
    offset: int
    size: int


def is_archive(path: Path) -> bool:
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(path: Path, spool: Path, max_data: int) -> list[Member]:
    """Stream the members that may be data into the file `spool`.

    Raises DataError for member names outside of the archive, links, more than `max_data` bytes after unpacking, the
    compression ratio of a decompression bomb, and a damaged archive.
    """
    packed = path.stat().st_size
    total = 0

    def count(size: int) -> None:
        nonlocal total
        total += size
        if total > max_data:
            raise DataError(f"{path} unpacks to more than {max_data:,} bytes; raise max_data to allow it")
        if total > _RATIO_CHECKED_FROM_BYTES and total > MAX_COMPRESSION_RATIO * packed:
            excess = f"more than {MAX_COMPRESSION_RATIO} times its size, like a decompression bomb"
            raise DataError(f"{path} is refused: it unpacks to {excess}")

    members = []
    with spool.open("wb") as output:
        entries = _zip_entries(path) if zipfile.is_zipfile(path) else _tar_entries(path)
        with closing(entries):
            while (entry := _guarded(path, next, entries, None)) is not None:
                stored_name, stated_size, content = entry
                _check_name(path, stored_name)
                name = str(PurePosixPath(stored_name)) + ("/" if stored_name.endswith("/") else "")
                count(_TAR_BLOCK_BYTES)
                offset = output.tell()
                if content is None or not _may_be_data(name):
                    count(stated_size if content is not None else 0)
                    members.append(Member(name, offset, 0))
                    continue
                while chunk := _guarded(path, content.read, _CHUNK_BYTES):
                    count(len(chunk))
                    output.write(chunk)
                members.append(Member(name, offset, output.tell() - offset))
    return members


def read_archive(path: Path, spool: Path, members: list[Member], *, labels_needed: bool = True) -> ImageSource:
    """Find the images of an archive that was unpacked into `spool`. Raises DataError if there are none."""
    layout = parse_layout([member.name for member in members], str(path), labels_needed=labels_needed)
    selected = [members[index] for index in layout.selected]
    ranges = [(member.offset, member.size) for member in selected]
    shards = tuple(
        ByteRangeShard(str(spool), tuple(ranges[first : first + FILES_PER_SHARD]))
        for first in range(0, len(ranges), FILES_PER_SHARD)
    )
    names = [member.name for member in selected]
    return layout.source(shards, names)


_Entry = tuple[str, int, IO[bytes] | None]
"""Name, stated size in bytes, and content of a member; a folder's name ends with a slash, and its content is None."""


def _zip_entries(path: Path) -> Generator[_Entry, None, None]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(f"{path} is refused: its member {info.filename!r} is a link")
            if info.is_dir():
                yield info.filename.rstrip("/") + "/", 0, None
            else:
                with archive.open(info) as content:
                    yield info.filename, info.file_size, content


def _tar_entries(path: Path) -> Generator[_Entry, None, None]:
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            if not (info.isreg() or info.isdir()):
                raise DataError(f"{path} is refused: its member {info.name!r} is a link or a device")
            if info.isdir():
                yield info.name.rstrip("/") + "/", 0, None
            else:
                yield info.name, info.size, archive.extractfile(info)


def _guarded(path: Path, read: Callable[..., Any], *arguments: object) -> Any:
    """Call `read`. Raises DataError if the archive is damaged."""
    try:
        return read(*arguments)
    except _READ_ERRORS as error:
        raise DataError(f"{path} is damaged or an unsupported archive: {error}") from None


def _check_name(path: Path, name: str) -> None:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or (pure.parts and ":" in pure.parts[0]):
        raise DataError(f"{path} is refused: the path of its member {name!r} leads out of the archive")


def _may_be_data(name: str) -> bool:
    return is_image(name) or (name.endswith(".bin") and not is_system_file(name))
