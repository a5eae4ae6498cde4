"""Prepare a data set: find out what it is, decode it once, and keep it in the cache."""

import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from image_classifier.cpus import available_cpus
from image_classifier.datasets.archive import is_archive, read_archive, unpack
from image_classifier.datasets.assembly import allocate, assemble
from image_classifier.datasets.cache import Cache
from image_classifier.datasets.cifar import Batch, is_batch, read_batches
from image_classifier.datasets.dataset import Dataset
from image_classifier.datasets.decoding import choose_size, decode_source, workers
from image_classifier.datasets.digits import read_digits
from image_classifier.datasets.fetch import fetch, is_remote, without_credentials
from image_classifier.datasets.folder import list_files, read_folder
from image_classifier.datasets.idx import idx_files, read_idx
from image_classifier.datasets.known import KNOWN, Known, describe, fetch_known
from image_classifier.datasets.parquet import read_parquet
from image_classifier.datasets.source import Source
from image_classifier.errors import DataError
from image_classifier.images import SMALLEST_SIZE
from image_classifier.settings import Settings

DIGITS = "digits"
_PARQUET_MAGIC = b"PAR1"
_FORMAT = 1
"""Part of every key of the cache; to be raised when decoding changes."""
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def prepare_known(settings: Settings, known: Mapping[str, Known] = KNOWN) -> Dataset:
    """As `image_classifier.datasets.prepare`, with the data sets that are `known` by name."""
    if 0 < settings.image_size < SMALLEST_SIZE:
        raise DataError(
            f"image_size is {settings.image_size}, but must be at least {SMALLEST_SIZE}, or 0: as the data"
        )
    root = settings.home / "cache"
    try:
        dataset = _prepare(settings, Cache(root), known)
    except OSError as error:
        raise DataError(_explained(error, root)) from error
    if settings.mirror != "auto":
        return replace(dataset, mirror=settings.mirror == "yes")
    return dataset


def _prepare(settings: Settings, cache: Cache, known: Mapping[str, Known]) -> Dataset:
    shown = without_credentials(settings.data)
    path = _locate(settings, cache.root / "fetched", known)
    parameters = [_FORMAT, settings.image_size, settings.max_pixels, settings.test_fraction]
    stamps = _stamps(path)
    signature = _hash([settings.data if settings.data in known else "", stamps, parameters])
    found = cache.find(signature, shown)
    if found is not None:
        return found
    total = sum(size for _, _, size, _ in stamps)
    with cache.draft() as draft, workers(total, available_cpus()) as pool:
        source = _read(path, draft, settings.max_data)
        if settings.data in known:
            source = describe(source, known[settings.data])
        if not len(source.labels):
            raise DataError(f"{shown} has no images: it is empty")
        size = settings.image_size or choose_size(source, settings.max_pixels)
        pixels = draft / "pixels"
        allocate(pixels, (len(source.labels), size, size, 3))
        decoded = decode_source(source, pixels, size, settings.max_pixels, pool)
        entry = draft / "entry"
        entry.mkdir()
        facts = assemble(source, decoded, pixels, entry, size, settings.test_fraction, shown)
        key = _hash([facts.digest, facts.image_size, facts.mirror, parameters])
        return cache.publish(entry, key, facts, signature, shown)


def _locate(settings: Settings, fetched: Path, known: Mapping[str, Known]) -> Path | None:
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


def _stamps(path: Path | None) -> list[tuple[str, str, int, int]]:
    """Paths, sizes and times of the source's files: as cheap a sign of change as there is."""
    if path is None:
        return []
    files = [path / name for name in list_files(path)] if path.is_dir() else [path]
    # A link that leads nowhere is told of when it is read.
    stats = [(file, file.stat() if file.exists() else file.lstat()) for file in files]
    return [(str(path), str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def _read(path: Path | None, draft: Path, max_data: int) -> Source:
    """Recognise the format from the content and the layout."""
    if path is None:
        return read_digits(draft)
    if path.is_dir():
        return _read_folder(path, draft, max_data)
    with path.open("rb") as file:
        magic = file.read(len(_PARQUET_MAGIC))
    if magic == _PARQUET_MAGIC:
        return read_parquet([path])
    if is_archive(path):
        spool = draft / "members"
        members = unpack(path, spool, max_data)
        batches = [
            Batch(member.name, spool, member.offset, member.size)
            for member in members
            if is_batch(member.name)
        ]
        return read_batches(batches) if batches else read_archive(path, spool, members)
    raise DataError(
        f"{path} is neither a folder nor a zip, tar or parquet file; for IDX files give their folder"
    )


def _read_folder(path: Path, draft: Path, max_data: int) -> Source:
    paths = list_files(path)
    if images := idx_files(paths):
        return read_idx(path, images, draft, max_data)
    if tables := [path / name for name in paths if name.endswith(".parquet")]:
        return read_parquet(tables)
    if batches := [name for name in paths if is_batch(name)]:
        return read_batches([Batch(name, path / name, 0, (path / name).stat().st_size) for name in batches])
    if len(paths) == 1 and is_archive(path / paths[0]):
        return _read(path / paths[0], draft, max_data)
    return read_folder(path, paths)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _explained(error: OSError, root: Path) -> str:
    place = error.filename or root
    # numpy says of a short write how much was written, and gives no number.
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) or "requested and" in str(error):
        reason = error.strerror or error
        return f"there is no room for the prepared data in {root} ({reason}); free some or set home"
    if error.errno in _READ_ONLY:
        return f"{place} cannot be used ({error.strerror}); set home to a folder that can be written"
    return f"the data cannot be prepared: {place}: {error.strerror or error}"
