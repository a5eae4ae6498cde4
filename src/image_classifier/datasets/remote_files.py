"""Download files from http(s)://, s3:// and gs:// URLs through fsspec, with resume, a size limit and a timeout.

fsspec's own caches (`filecache`, `blockcache`) and pooch download each file anew after an interruption, have neither a
size limit nor a timeout for the whole download, and do not notice that a file changed at its http(s) URL.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from image_classifier.errors import DataError
from image_classifier.files import write_atomically
from image_classifier.progress import Progress
from image_classifier.text import one_line, without_credentials

REMOTE_SCHEMES = ("http", "https", "s3", "gs", "gcs")
_CHUNK_BYTES = 2**20
_CONNECT_TIMEOUT_SECONDS, _READ_TIMEOUT_SECONDS = 10, 30
_NOT_FOUND, _DENIED = 404, (401, 403)
_VALIDATORS = ("ETag", "etag", "Last-Modified", "LastModified", "Content-MD5", "md5Hash", "mtime", "size")
"""Properties of a remote file that change with its content."""

_Validators = dict[str, dict[str, str]]
"""By local path of the file."""


def is_remote(location: str) -> bool:
    return location.partition("://")[0].lower() in REMOTE_SCHEMES


def file_system(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL, with network timeouts, and the path in it."""
    import fsspec

    options: dict[str, Any] = {}
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT_TIMEOUT_SECONDS, sock_read=_READ_TIMEOUT_SECONDS)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}, "skip_instance_cache": True}
    elif scheme == "s3":
        timeouts = {"connect_timeout": _CONNECT_TIMEOUT_SECONDS, "read_timeout": _READ_TIMEOUT_SECONDS}
        options = {"config_kwargs": timeouts}
    elif scheme in ("gs", "gcs"):
        options = {"session_kwargs": {"trust_env": True}}
    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
    return system, path


def fetch(url: str, folder: Path, timeout: float, max_data: int) -> Path:
    """Download a file, or all files below a folder URL, into a subfolder of `folder`; returns the file or folder.

    Files that did not change at their URL are not downloaded again, and an interrupted download is resumed if the
    server supports ranges.
    Raises DataError if the URL does not exist, the server does not answer, the download takes longer than `timeout`
    seconds, or it is larger than `max_data` bytes.
    """
    shown = without_credentials(url)
    home = folder / hashlib.sha256(url.encode()).hexdigest()[:32]
    return _run_with_timeout(timeout, shown, lambda stop: _fetch(url, shown, home, max_data, stop))


def _run_with_timeout(timeout: float, shown: str, work: Callable[[threading.Event], Path]) -> Path:
    """Run `work` in a thread that is abandoned after the timeout: no library's timeout covers the whole download."""
    stop = threading.Event()
    future: Future[Path] = Future()

    def run() -> None:
        try:
            future.set_result(work(stop))
        except BaseException as error:
            future.set_exception(error)

    # A daemon, unlike the threads of an executor: it does not keep the process from exiting.
    threading.Thread(target=run, name="fetch", daemon=True).start()
    try:
        return future.result(timeout)
    except DataError:
        raise
    except Exception as error:
        if future.done():
            raise _to_data_error(error, shown) from error
        raise DataError(
            f"{shown} was not fetched within {timeout:g} s; repeat the command to resume the download, raise "
            "fetch_timeout, or download the file yourself and use its path"
        ) from None
    finally:
        stop.set()


def _to_data_error(error: Exception, shown: str) -> DataError:
    # fsspec raises FileNotFoundError for most errors; the cause has the reason.
    cause = error.__cause__ or error
    status = getattr(cause, "status", None)
    if isinstance(error, ImportError):
        reason = str(error)
    elif status == _NOT_FOUND or (status is None and cause is error and isinstance(error, FileNotFoundError)):
        reason = "the server has no such file (404)"
    elif status in _DENIED or isinstance(cause, PermissionError):
        reason = "access denied; check the credentials"
    elif isinstance(cause, TimeoutError):
        reason = "the server does not answer"
    elif status:
        reason = f"the server answers with status {status}"
    else:
        reason = one_line(cause)
    return DataError(f"{shown} cannot be fetched: {reason}")


def _fetch(url: str, shown: str, home: Path, max_data: int, stop: threading.Event) -> Path:
    system, path = file_system(url)
    info = system.info(path)
    files, base = {path: info}, ""
    if info.get("type") == "directory":
        files, base = dict(system.find(path, detail=True)), path
    if not files:
        raise DataError(f"{shown} is empty")
    wanted = {_local_name(name, base): (name, item) for name, item in files.items()}
    total = sum(item.get("size") or 0 for _, item in wanted.values())
    if total > max_data:
        raise DataError(f"{shown} has {total:,} bytes, more than max_data allows ({max_data:,})")
    validators = {
        local: {key: str(item[key]) for key in _VALIDATORS if item.get(key) is not None}
        for local, (_, item) in wanted.items()
    }
    content = home / "content"
    target = content if base else content / next(iter(wanted))
    record = home / "fetched.json"
    if _read_validators(record) == validators and all(validators.values()) and target.exists():
        return target
    _remove_outdated(home, record, validators)
    with Progress(f"fetch {shown}", total or None, "B") as progress:
        download = _Download(system, shown, max_data, progress, stop)
        for local, (name, item) in wanted.items():
            download.copy(name, item.get("size"), content / local)
    _write_validators(record, validators)
    return target


def _local_name(name: str, base: str) -> str:
    """Path of a remote file below our folder. Raises DataError if it would be outside."""
    relative = name[len(base) :].lstrip("/") if base else PurePosixPath(urlsplit(name).path).name or "data"
    if ".." in PurePosixPath(relative).parts:
        raise DataError(f"{without_credentials(name)} is refused: the path leads out of the download folder")
    return relative


def _read_validators(record: Path) -> _Validators | None:
    """The validators in a record of a started or a finished download; None if there is no readable record."""
    try:
        validators: _Validators = json.loads(record.read_text())["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return validators


def _write_validators(record: Path, validators: _Validators) -> None:
    write_atomically(record, json.dumps({"state": validators}).encode())


def _remove_outdated(home: Path, record: Path, validators: _Validators) -> None:
    """Remove the files of an earlier download, finished or not, that changed at the URL or are no longer there."""
    started = home / "begun.json"
    stored = _read_validators(record) or _read_validators(started)
    if stored is None:
        shutil.rmtree(home, ignore_errors=True)
        stored = {}
    for local, values in stored.items():
        if not values or validators.get(local) != values:
            (home / "content" / local).unlink(missing_ok=True)
    # In this order: a download that is interrupted after this never counts as finished.
    record.unlink(missing_ok=True)
    _write_validators(started, validators)


@dataclass
class _Download:
    """Copies remote files to disk, within the size limit, until it is stopped."""

    system: Any
    shown: str
    max_bytes: int
    progress: Progress
    stop: threading.Event
    copied: int = 0

    def copy(self, name: str, size: int | None, file: Path) -> None:
        """Copy a file, from where an earlier attempt stopped; `size` is None if the server does not tell."""
        file.parent.mkdir(parents=True, exist_ok=True)
        start = file.stat().st_size if file.exists() else 0
        if size is None or start > size:
            start = 0
        if start and start == size:
            self.progress.advance(start)
            self.copied += start
        else:
            self.copied += self._append(name, size, file, start)

    def _append(self, name: str, size: int | None, file: Path, start: int) -> int:
        """Copy the file from byte `start`; returns its size."""
        remote, have = _open_at(self.system, name, start)
        with remote, file.open("r+b" if have else "wb") as local:
            local.seek(have)
            self.progress.advance(have)
            while chunk := remote.read(_CHUNK_BYTES):
                if self.stop.is_set():
                    raise TimeoutError
                have += len(chunk)
                if self.copied + have > self.max_bytes:
                    raise DataError(f"{self.shown} has more bytes than max_data allows ({self.max_bytes:,})")
                local.write(chunk)
                self.progress.advance(len(chunk))
        if size is not None and have != size:
            raise DataError(
                f"{self.shown} cannot be fetched: the server closed the connection after {have:,} of {size:,} bytes; "
                "try again"
            )
        return have


def _open_at(system: Any, name: str, start: int) -> tuple[Any, int]:
    """Open a remote file at byte `start`, or at 0 if the server does not support ranges; returns file and position."""
    if start:
        remote = system.open(name, "rb", block_size=_CHUNK_BYTES)
        try:
            remote.seek(start)
            remote.read(1)
            remote.seek(start)
            return remote, start
        except (ValueError, OSError):
            remote.close()
    # Block size 0: one request streams the whole file.
    options = {"block_size": 0} if "http" in system.protocol else {}
    return system.open(name, "rb", **options), 0
