"""Data format: zip and tar archives. Members are streamed into one file, never extracted to paths of their own."""

import lzma
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from image_classifier.datasets.folder import FILES_PER_SHARD
from image_classifier.datasets.image_source import ByteRangeShard, ImageSource
from image_classifier.datasets.label_table import TABLE_SUFFIXES
from image_classifier.datasets.labeling import LabelOptions, find_labels
from image_classifier.datasets.layout import is_image, is_system_file
from image_classifier.errors import DataError

MAX_COMPRESSION_RATIO = 200
"""Images hardly compress; a decompression bomb has a ratio of 1,000."""
_RATIO_CHECKED_FROM_BYTES = 2**24
_CHUNK_BYTES = 2**20
_TAR_BLOCK_BYTES = 512
_MAX_LINK_BYTES = 4096
_MAX_LINKS = 40
_FROM_WINDOWS = 0  # the system in a zip member's header: MS-DOS and Windows
_ENCRYPTED_FLAG, _UTF8_FLAG = 0x1, 0x800
_UNICODE_PATH = 0x7075
_DRIVE = re.compile("[A-Za-z]:")
_FORMAT_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
_READ_ERRORS = (*_FORMAT_ERRORS, EOFError, RuntimeError, OSError, ValueError)


@dataclass(frozen=True)
class Member:
    """A file of an archive, with offset and size of its bytes in the spool file; size 0 if it was not kept."""

    name: str
    offset: int
    size: int
    problem: str = ""
    """Why the file cannot be read, although the archive is undamaged."""


def is_archive(path: Path) -> bool:
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(path: Path, spool: Path, max_data: int) -> list[Member]:
    """Stream the members that may be data into the file `spool`.

    A link to a file of the archive becomes a member with the content of that file; any other link is a member with a
    problem. Raises DataError for member names outside of the archive, devices, more than `max_data` bytes after
    unpacking, the compression ratio of a decompression bomb, and a damaged archive.
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
    links: dict[str, str] = {}
    with spool.open("wb") as output:
        entries = _zip_entries(path) if zipfile.is_zipfile(path) else _tar_entries(path)
        with closing(entries):
            while (entry := _guarded(path, next, entries, None)) is not None:
                stored_name, stated_size, content = entry
                _check_name(path, stored_name)
                count(_TAR_BLOCK_BYTES)
                if isinstance(content, str):
                    links[str(PurePosixPath(stored_name))] = content
                    continue
                name = str(PurePosixPath(stored_name)) + ("/" if stored_name.endswith("/") else "")
                offset = output.tell()
                if content is None or not _may_be_data(name):
                    count(stated_size if content is not None else 0)
                    members.append(Member(name, offset, 0))
                    continue
                while chunk := _guarded(path, content.read, _CHUNK_BYTES):
                    count(len(chunk))
                    output.write(chunk)
                members.append(Member(name, offset, output.tell() - offset))
    for member in _follow_links(links, members):
        count(member.size)
        members.append(member)
    # Some programs on Windows write backslashes, against the standard. Elsewhere a name may contain one.
    if not any("/" in member.name.rstrip("/") for member in members):
        return [replace(member, name=member.name.replace("\\", "/")) for member in members]
    return members


def _follow_links(links: dict[str, str], members: list[Member]) -> list[Member]:
    """A member for each link, by its name and the path of its target in the archive; "" stands for a path outside."""
    by_name = {member.name.rstrip("/"): member for member in members}
    folders = {str(folder) for name in by_name for folder in PurePosixPath(name).parents} if links else set()
    followed = []
    for name in links:
        target = name
        for _ in range(_MAX_LINKS):
            if target not in links:
                break
            target = links[target]
        member = by_name.get(target)
        if target in folders or (member and member.name.endswith("/")):
            followed.append(Member(f"{name} (a link to the folder {target})", 0, 0))
        elif member:
            problem = "" if _may_be_data(target) else f"it is a link to {target}, which is not named like an image"
            followed.append(replace(member, name=name, problem=problem))
        else:
            place = "in a circle" if target in links else "to a file that is not in the archive"
            followed.append(Member(name, 0, 0, f"it is a link {place}"))
    return followed


def read_archive(
    path: Path, spool: Path, members: list[Member], options: LabelOptions, *, labels_needed: bool = True
) -> ImageSource:
    """Find the images of an archive that was unpacked into `spool`. Raises DataError if there are none."""
    stored = {member.name: member for member in members}

    def read(name: str, most: int) -> bytes:
        with spool.open("rb") as file:
            file.seek(stored[name].offset)
            return file.read(min(stored[name].size, most))

    layout = find_labels([member.name for member in members], str(path), read, options, labels_needed=labels_needed)
    selected = [members[index] for index in layout.selected]
    ranges = [member.problem or (member.offset, member.size) for member in selected]
    shards = tuple(
        ByteRangeShard(str(spool), tuple(ranges[first : first + FILES_PER_SHARD]))
        for first in range(0, len(ranges), FILES_PER_SHARD)
    )
    names = [member.name for member in selected]
    return layout.source(shards, names)


_Entry = tuple[str, int, IO[bytes] | str | None]
"""Name, stated size in bytes, and content of a member. A folder's name ends with a slash, and its content is None; the
content of a link is the path of its target in the archive, or "" if that is outside."""


def _zip_entries(path: Path) -> Generator[_Entry, None, None]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & _ENCRYPTED_FLAG:
                raise DataError(f"{path} is encrypted; unpack it, and use the folder")
            name = _zip_name(info)
            if info.create_system == _FROM_WINDOWS:
                name = name.replace("\\", "/")
            if stat.S_ISLNK(info.external_attr >> 16):
                with archive.open(info) as content:
                    target = content.read(_MAX_LINK_BYTES).decode("utf-8", "surrogateescape")
                yield name, 0, _inside(PurePosixPath(name).parent, target)
            elif info.is_dir() or name.endswith("/"):
                yield name.rstrip("/") + "/", 0, None
            else:
                with archive.open(info) as content:
                    yield name, info.file_size, content


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name of a zip member in its probable encoding.

    The standard allows code page 437 and, with a flag, UTF-8. Without the flag, macOS and Linux write the bytes of the
    file name, mostly UTF-8 or else Latin-1, and Windows its console's code page, 850 instead of 437 in Western Europe.
    Most letters are the same in both; a name that has box-drawing characters in 437 is in 850. Other code pages cannot
    be told apart. An extra field with the name in UTF-8, which Info-ZIP and WinRAR write, comes first.
    """
    if info.filename.isascii() or info.flag_bits & _UTF8_FLAG:
        return info.filename
    raw = info.filename.encode("cp437")
    if stored := _unicode_path(info.extra, raw):
        return stored
    try:
        return raw.decode()
    except UnicodeDecodeError:
        latin = raw.decode("cp1252", "replace")
        if info.create_system != _FROM_WINDOWS and _letters(latin) >= _letters(info.filename):
            return raw.decode("utf-8", "surrogateescape")
    boxes = any("\u2500" <= character <= "\u259f" for character in info.filename)
    return raw.decode("cp850" if boxes else "cp437")


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def _unicode_path(extra: bytes, raw: bytes) -> str:
    """The UTF-8 name in the extra field of a zip member, if it belongs to this name; "" if there is none."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[1:5] == struct.pack("<I", zlib.crc32(raw)):
            return field[5:].decode("utf-8", "replace")
    return ""


def _tar_entries(path: Path) -> Generator[_Entry, None, None]:
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            if info.issym():
                yield info.name, 0, _inside(PurePosixPath(info.name).parent, info.linkname)
            elif info.islnk():
                yield info.name, 0, _inside(PurePosixPath(), info.linkname)
            elif info.isdir():
                yield info.name.rstrip("/") + "/", 0, None
            elif info.isreg():
                yield info.name, info.size, archive.extractfile(info)
            else:
                raise DataError(f"{path} is refused: its member {info.name!r} is a device")


def _inside(folder: PurePosixPath, target: str) -> str:
    """The normalized path of a link's target in the archive; "" if it is outside."""
    resolved = posixpath.normpath(folder / target)
    return "" if resolved == ".." or resolved.startswith(("/", "../")) else resolved


def _guarded(path: Path, read: Callable[..., Any], *arguments: object) -> Any:
    """Call `read`. Raises DataError if the archive is damaged."""
    try:
        return read(*arguments)
    except _READ_ERRORS as error:
        raise DataError(f"{path} is damaged or an unsupported archive: {error}") from None


def _check_name(path: Path, name: str) -> None:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or (pure.parts and _DRIVE.match(pure.parts[0])):
        raise DataError(f"{path} is refused: the path of its member {name!r} leads out of the archive")


def _may_be_data(name: str) -> bool:
    others = (".bin", *TABLE_SUFFIXES)
    return is_image(name) or (PurePosixPath(name).suffix.lower() in others and not is_system_file(name))
