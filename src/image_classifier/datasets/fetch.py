"""Fetch a data set from an s3://, gs:// or https:// address into the cache."""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from image_classifier.errors import DataError
from image_classifier.files import write_atomically
from image_classifier.progress import Progress

REMOTE = ("http", "https", "s3", "gs", "gcs")
_CHUNK = 2**20
_CONNECT_SECONDS, _READ_SECONDS = 10, 30
_NOT_FOUND, _REFUSED = 404, (401, 403)
_VALIDATORS = ("ETag", "etag", "Last-Modified", "LastModified", "Content-MD5", "md5Hash", "mtime", "size")


def is_remote(address: str) -> bool:
    return urlsplit(address).scheme in REMOTE


def without_credentials(address: str) -> str:
    """The address without user, password and query, where a signature may stand."""
    if not is_remote(address):
        return address
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def fetch(address: str, folder: Path, timeout: float, max_data: int) -> Path:
    """Fetch a file, or all files under a folder address, into a folder of its own under `folder`.

    What was fetched before is used again while the server says that it is the same; a fetch that was cut
    short goes on where the server allows it. Returns the file or folder.
    Raises DataError where the address is not found, the server does not answer, `timeout` seconds pass or
    more than `max_data` bytes come.
    """
    shown = without_credentials(address)
    home = folder / hashlib.sha256(address.encode()).hexdigest()[:32]
    return _within(timeout, shown, lambda stop: _fetch(address, shown, home, max_data, stop))


def _within(timeout: float, shown: str, work: Callable[[threading.Event], Path]) -> Path:
    """Run in a thread that is left behind when time is over: no library's own timeout bounds the whole."""
    stop = threading.Event()
    outcome: list[Path | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work(stop))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="fetch", daemon=True)
    thread.start()
    try:
        thread.join(timeout)
    finally:
        stop.set()
    if not outcome:
        raise DataError(
            f"{shown} was not fetched within {timeout:g} s; what came is kept and the next try goes on from "
            "there; raise fetch_timeout or fetch it yourself and give the file"
        )
    if isinstance(outcome[0], BaseException):
        raise _explained(outcome[0], shown)
    return outcome[0]


def _explained(error: BaseException, shown: str) -> BaseException:
    if isinstance(error, DataError) or not isinstance(error, Exception):
        return error
    if isinstance(error, ImportError):
        return DataError(f"{shown} cannot be fetched: {error}")
    # fsspec says "not found" of whatever went wrong; the cause knows better.
    cause = error.__cause__ or error
    status = getattr(cause, "status", None)
    if status == _NOT_FOUND or (status is None and cause is error and isinstance(error, FileNotFoundError)):
        return DataError(f"{shown} is not there: the server has no such file (404)")
    if status in _REFUSED or isinstance(cause, PermissionError):
        return DataError(f"{shown} cannot be fetched: access is refused; check the credentials")
    if isinstance(cause, TimeoutError):
        return DataError(f"{shown} cannot be fetched: the server does not answer")
    reason = f"the server answers {status}" if status else " ".join(str(cause).split())[:200]
    return DataError(f"{shown} cannot be fetched: {reason or type(cause).__name__}")


def _fetch(address: str, shown: str, home: Path, max_data: int, stop: threading.Event) -> Path:
    system, path = file_system(address)
    info = system.info(path)
    if info.get("type") == "directory":
        files = dict(system.find(path, detail=True))
        base = path
    else:
        files, base = {path: info}, ""
    if not files:
        raise DataError(f"{shown} is empty")
    wanted = {_local_name(name, base): (name, item) for name, item in files.items()}
    total = sum(item.get("size") or 0 for _, item in wanted.values())
    if total > max_data:
        raise DataError(f"{shown} has {total:,} bytes, more than max_data allows ({max_data:,})")
    state = {local: _validators(item) for local, (_, item) in wanted.items()}
    content = home / "content"
    target = content if base else content / next(iter(wanted))
    record = home / "fetched.json"
    if _unchanged(record, state) and target.exists():
        return target
    _make_room(home, record, state)
    left = max_data
    with Progress(f"fetch {shown}", total or None, "B") as progress:
        for local, (name, item) in wanted.items():
            file = content / local
            file.parent.mkdir(parents=True, exist_ok=True)
            left -= _copy(system, name, item.get("size"), file, left, shown, progress, stop)
    write_atomically(record, json.dumps({"state": state}).encode())
    return target


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, which gives up on a server that does not answer, and the path in it."""
    import fsspec

    options: dict[str, Any] = {}
    scheme = urlsplit(address).scheme
    if scheme in ("http", "https"):
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
        options = {"client_kwargs": {"timeout": limits}, "skip_instance_cache": True}
    elif scheme == "s3":
        options = {"config_kwargs": {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}}
    system, path = fsspec.core.url_to_fs(address, use_listings_cache=False, **options)
    return system, path


def _local_name(name: str, base: str) -> str:
    """Where a remote file lies under our folder; refuses names that lead out of it."""
    relative = name[len(base) :].lstrip("/") if base else PurePosixPath(urlsplit(name).path).name or "data"
    if ".." in PurePosixPath(relative).parts:
        raise DataError(f"{name} is refused: its name would lead out of the folder")
    return relative


def _validators(info: dict[str, Any]) -> dict[str, str]:
    return {key: str(info[key]) for key in _VALIDATORS if info.get(key) is not None}


def _unchanged(record: Path, state: dict[str, dict[str, str]]) -> bool:
    return _stored(record) == state and all(state.values())


def _stored(record: Path) -> dict[str, dict[str, str]] | None:
    """What was noted of the files that a fetch began with or ended with; None where nothing was."""
    try:
        state: dict[str, dict[str, str]] = json.loads(record.read_text())["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state


def _make_room(home: Path, record: Path, state: dict[str, dict[str, str]]) -> None:
    """Keep of what an earlier fetch left, whole or cut short, the files that are still the same at the address."""
    begun = home / "begun.json"
    stored = _stored(record) or _stored(begun)
    if stored is None:
        shutil.rmtree(home, ignore_errors=True)
        stored = {}
    for local, validators in stored.items():
        if not validators or state.get(local) != validators:
            (home / "content" / local).unlink(missing_ok=True)
    # In this order: a fetch that is cut short from here on is never taken for a whole one.
    record.unlink(missing_ok=True)
    write_atomically(begun, json.dumps({"state": state}).encode())


def _copy(
    system: Any, name: str, size: int | None, file: Path, left: int, shown: str, progress: Progress,
    stop: threading.Event,
) -> int:  # fmt: skip
    """Copy one file and go on where an earlier try stopped; the bytes it has in the end."""
    have = file.stat().st_size if file.exists() else 0
    if size is None or have > size:
        have = 0
    if have and have == size:
        progress.advance(have)
        return have
    remote, have = _open_at(system, name, have)
    with remote, file.open("r+b" if have else "wb") as local:
        local.seek(have)
        progress.advance(have)
        while chunk := remote.read(_CHUNK):
            if stop.is_set():
                raise TimeoutError
            have += len(chunk)
            if have > left:
                raise DataError(f"{shown} has more bytes than max_data allows ({left:,})")
            local.write(chunk)
            progress.advance(len(chunk))
    if size is not None and have != size:
        raise DataError(f"{shown} was cut short by the server: {have:,} of {size:,} bytes came; try again")
    return have


def _open_at(system: Any, name: str, start: int) -> tuple[Any, int]:
    """Open a remote file at an offset, or at its begin where the server cannot do that."""
    if start:
        remote = system.open(name, "rb", block_size=_CHUNK)
        try:
            remote.seek(start)
            remote.read(1)
            remote.seek(start)
            return remote, start
        except (ValueError, OSError):
            remote.close()
    if "http" in system.protocol:
        # A block size of 0 streams the file in one request.
        return system.open(name, "rb", block_size=0), 0
    return system.open(name, "rb"), 0
