"""Environment variables that libraries read when they are imported. A process sets them once, before any import.

Values that the user has set are kept. Child processes inherit all of them.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

_NO_TELEMETRY = {
    # ONNX Runtime stores a device identifier below HOME, looks up a host of Microsoft's, and starts a thread on import,
    # with which a forked process hangs or aborts.
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
_CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "torch",
    "XDG_CACHE_HOME": "",  # of Fontconfig, which Matplotlib calls, and of PyTorch's hub
}
_LOOPBACK = ("localhost", "127.0.0.0/8", "127.0.0.1", "::1")
"""Requests reads networks; urllib only compares names."""
_CA_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""For OpenSSL, which is urllib and aiohttp, and for Requests, which MLflow uses, and botocore."""


def configure_libraries(caches: Path) -> None:
    """Configure the libraries of this process: no telemetry, their caches, no proxy for loopback, one CA file.

    caches: folder of the libraries' caches; it need not exist.
    """
    disable_telemetry()
    caches = caches.absolute()
    _provide_temporary_folder(caches / "tmp")
    if not _is_writable(caches):
        caches = _folder_of_this_process() or caches
    for name, folder in _CACHES.items():
        os.environ.setdefault(name, str(caches / folder))
    try:
        Path.home()
    except RuntimeError:  # a user without a passwd entry; MLflow cannot be imported without a home folder
        os.environ["HOME"] = str(caches)
    _bypass_proxies_on_loopback()
    _share_ca_bundle()


def disable_telemetry() -> None:
    """Let no library report its usage."""
    for name, value in _NO_TELEMETRY.items():
        os.environ.setdefault(name, value)


def _provide_temporary_folder(folder: Path) -> None:
    """Use `folder` for temporary files if the system has no other place for them, as with a read-only root."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # whoever needs a temporary file reports that there is no place for it
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def _is_writable(folder: Path) -> bool:
    existing = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110 (never raises)
    return os.access(existing, os.W_OK | os.X_OK)


def _folder_of_this_process() -> Path | None:
    """A temporary folder that is removed at the end; None if there is no place for it."""
    try:
        folder = tempfile.mkdtemp(prefix="image-classifier-")
    except OSError:
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _bypass_proxies_on_loopback() -> None:
    excepted = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name for name in (each.strip() for each in excepted.split(",")) if name]
    # Some libraries read only one of the two, and urllib prefers lower case.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys((*names, *_LOOPBACK)))


def _share_ca_bundle() -> None:
    """Let all libraries trust the certification authorities of the file that the user set for one of them."""
    chosen = (os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"))
    bundle = next(filter(None, chosen), None)
    if bundle and Path(bundle).is_file():
        for name in _CA_BUNDLES:
            os.environ.setdefault(name, bundle)
