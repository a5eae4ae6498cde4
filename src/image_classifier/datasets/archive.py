"""Zip and tar archives: members are streamed into one nameless file, never unpacked to paths of theirs."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from image_classifier.datasets.folder import FILES_A_SHARD, arrange, is_image, is_litter
from image_classifier.datasets.image_source import ImageSource, Ranges
from image_classifier.errors import DataError

LARGEST_RATIO = 200
"""Unpacked bytes for one packed byte; images hardly shrink, a bomb grows a thousandfold."""
_RATIO_COUNTS_FROM = 2**24
_CHUNK = 2**20
_TAR_BLOCK = 512
_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, RuntimeError, OSError, ValueError),
)


@dataclass(frozen=True)
class Member:
    """A file of an archive; `offset` and `size` say where its bytes lie in the spool, size 0 if not kept."""

    name: str
    offset: int
    size: int


def is_archive(path: Path) -> bool:
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(path: Path, spool: Path, max_data: int) -> list[Member]:
    """Stream the members that may be data into the file `spool`.

    Raises DataError for names that lead out of the archive, for links, for more than `max_data` bytes
    unpacked, for a compression ratio that no images have, and for a damaged archive.
    """
    packed = path.stat().st_size
    total = 0

    def count(size: int) -> None:
        nonlocal total
        total += size
        if total > max_data:
            raise DataError(f"{path} unpacks to more than {max_data:,} bytes; raise max_data if it may")
        if total > _RATIO_COUNTS_FROM and total > LARGEST_RATIO * packed:
            raise DataError(
                f"{path} is refused: it unpacks to more than {LARGEST_RATIO} times its size, as a bomb does"
            )

    members = []
    with spool.open("wb") as output:
        opened = _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)
        with closing(opened):
            while (entry := _next(path, opened)) is not None:
                stored, declared, content = entry
                _check_name(path, stored)
                name = str(PurePosixPath(stored)) + ("/" if stored.endswith("/") else "")
                count(_TAR_BLOCK)
                offset = output.tell()
                if content is None or not _kept(name):
                    count(declared if content is not None else 0)
                    members.append(Member(name, offset, 0))
                    continue
                while chunk := _read(path, content):
                    count(len(chunk))
                    output.write(chunk)
                members.append(Member(name, offset, output.tell() - offset))
    return members


def read_archive(
    path: Path, spool: Path, members: list[Member], *, labels_needed: bool = True
) -> ImageSource:
    """The images of an archive that lies unpacked in `spool`. Raises DataError where there are none."""
    arranged = arrange([member.name for member in members], str(path), labels_needed=labels_needed)
    chosen = [members[index] for index in arranged.chosen]
    shards = tuple(
        Ranges(str(spool), tuple((item.offset, item.size) for item in chosen[first : first + FILES_A_SHARD]))
        for first in range(0, len(chosen), FILES_A_SHARD)
    )
    names = [member.name for member in chosen]
    return ImageSource(
        arranged.classes, shards, arranged.labels, arranged.in_test, names, None, arranged.warnings
    )


_Entry = tuple[str, int, IO[bytes] | None]


def _zip_members(path: Path) -> Generator[_Entry, None, None]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(f"{path} is refused: its member {info.filename!r} is a link")
            if info.is_dir():
                yield info.filename.rstrip("/") + "/", 0, None
            else:
                with archive.open(info) as content:
                    yield info.filename, info.file_size, content


def _tar_members(path: Path) -> Generator[_Entry, None, None]:
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            if not (info.isreg() or info.isdir()):
                raise DataError(f"{path} is refused: its member {info.name!r} is a link or a device")
            if info.isdir():
                yield info.name.rstrip("/") + "/", 0, None
            else:
                yield info.name, info.size, archive.extractfile(info)


def _next(path: Path, entries: Iterator[_Entry]) -> _Entry | None:
    try:
        return next(entries, None)
    except _BROKEN as error:
        raise _damaged(path, error) from None


def _read(path: Path, content: IO[bytes]) -> bytes:
    try:
        return content.read(_CHUNK)
    except _BROKEN as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged or no archive that can be read: {error}")


def _check_name(path: Path, name: str) -> None:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or (pure.parts and ":" in pure.parts[0]):
        raise DataError(f"{path} is refused: its member {name!r} would lead out of the archive")


def _kept(name: str) -> bool:
    return not is_litter(name) and (is_image(name) or name.endswith(".bin"))
