"""The server process: gunicorn, run as a library, with one package."""

import errno
import gc
import logging
import math
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from image_classifier.addresses import address_of
from image_classifier.errors import PackageError, SettingError
from image_classifier.package import Model, ModelIdentity, Package, load_runtime
from image_classifier.process import available_cpus, permanent_imports, return_large_blocks
from image_classifier.serving.http.connection import KEEP_ALIVE_SECONDS
from image_classifier.serving.http.gunicorn_worker import ConnectionCounts, Worker
from image_classifier.serving.observe.log import ServerLogger, logfmt
from image_classifier.serving.server_options import ServerOptions

if TYPE_CHECKING:  # these import prometheus_client
    from image_classifier.serving.http.hot_path import Application, HotPath
    from image_classifier.serving.service import Service

WORKER_TIMEOUT_SECONDS = 120  # a worker whose event loop hangs for so long is replaced
BACKLOG = 1024
SPARE_THREADS = 128  # besides one per slot and queue place: for refusals, probes and slow clients
UNREADY_FRACTION, MAX_UNREADY_SECONDS = 0.1, 2.0  # of drain_timeout, connections are still accepted
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (for a file that is unlinked at once)

_log = logging.getLogger(__name__)


def serve_package(options: ServerOptions, package: Package) -> None:
    """Serve a package that was read and verified, until SIGTERM or SIGINT.

    Ends with SystemExit, with status 0 after a signal. Each worker loads the model after the fork, which ONNX Runtime's
    threads do not survive, and replays the golden images before it accepts connections; if that fails, the server logs
    the reason and ends with gunicorn's status 3.

    Raises PackageError for a version.json or reference statistics that cannot be used, and SettingError if it cannot
    listen on the address.
    """
    return_large_blocks()
    identity = ModelIdentity.read(package, options.name)
    listener = listen(options.host, options.port)
    address = f"{address_of(*listener.getsockname()[:2])}/"
    cpus = max(1, available_cpus() // options.workers)
    # Decoding and inference are CPU-bound, so more slots than CPUs would only compete.
    slots = options.threads or cpus
    sharing = _shared_metrics() if options.workers > 1 else {}
    with permanent_imports():
        # prometheus_client reads the folder of the shared metrics when it is imported.
        from image_classifier.serving.observe.drift_monitor import DriftMonitor
        from image_classifier.serving.service import Service

        load_runtime()
    drift = DriftMonitor(package, window=options.drift_window, false_alarms=options.drift_false_alarms)

    def load(draining: threading.Event) -> Service:
        model = Model.load(package, cpus)
        service = Service(options, model, identity, slots=slots, draining=draining, drift=drift)
        about = {"model": identity.name, "version": identity.version, "digest": identity.digest[:12]}
        _log.info(logfmt(event="ready", address=address, **about, threads=slots, inference_threads=cpus))
        return service

    gunicorn_options = {
        "bind": f"fd://{listener.detach()}",
        "backlog": BACKLOG,
        "workers": options.workers,
        "worker_class": Worker,
        "threads": slots + options.queue + SPARE_THREADS,
        "timeout": WORKER_TIMEOUT_SECONDS,
        "keepalive": KEEP_ALIVE_SECONDS,
        # Workers that still run by then are killed.
        "graceful_timeout": math.ceil(options.drain_timeout) + 1,
        # On a disk that stalls, a missing heartbeat would read as a dead worker.
        "worker_tmp_dir": str(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None,
        "control_socket_disable": True,
        "logger_class": ServerLogger,
        "accesslog": "-",
        "loglevel": "warning",
        "proc_name": "image-classifier",
        **sharing,
    }
    _Application(gunicorn_options, load, options.drain_timeout).run()


class _Application(BaseApplication):  # type: ignore[misc]
    """What gunicorn runs: its options, and how a worker loads the WSGI application."""

    def __init__(
        self, options: Mapping[str, Any], load: Callable[[threading.Event], "Service"], drain_timeout: float
    ) -> None:
        self._options, self._load = options, load
        self.draining = threading.Event()
        self.connection_counts = ConnectionCounts()
        self.hot_path: HotPath | None = None
        self.unready_seconds = min(MAX_UNREADY_SECONDS, UNREADY_FRACTION * drain_timeout)
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> "Application":
        with permanent_imports():
            try:
                service = self._load(self.draining)
            except PackageError as error:
                click.echo(f"error: {error}", err=True)
                # After any other status gunicorn would restart the worker forever.
                sys.exit(Arbiter.WORKER_BOOT_ERROR)
            if not service.has_hot_path:
                return _flask_application(service)
        # Not at the top: it imports prometheus_client.
        from image_classifier.serving.http.hot_path import BackgroundApplication, HotPath

        # Importing Flask takes as long as the rest of a worker's start; the hot path answers meanwhile.
        self.hot_path = HotPath(BackgroundApplication(lambda: _load_in_background(service)), service)
        return self.hot_path


def _load_in_background(service: "Service") -> "Application":
    try:
        return _flask_application(service)
    except BaseException:
        _log.exception("cannot load the Flask application")
        os._exit(Arbiter.WORKER_BOOT_ERROR)
    finally:
        gc.freeze()


def _flask_application(service: "Service") -> "Application":
    from image_classifier.serving.web.app import build_app

    return build_app(service).wsgi_app


def _shared_metrics() -> dict[str, Any]:
    """Make workers share their metrics in a folder; returns the gunicorn hooks that maintain it."""
    folder = tempfile.mkdtemp(prefix="image-classifier-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder

    def remove_worker(arbiter: Arbiter, worker: Worker) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        arbiter.app.connection_counts.remove(worker.age)
        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]

    def remove_folder(arbiter: Arbiter) -> None:  # noqa: ARG001
        shutil.rmtree(folder, ignore_errors=True)

    return {"child_exit": remove_worker, "on_exit": remove_folder}


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; raises SettingError if the port is taken or the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingError(f"port {port} on {host} is already in use; choose another --port") from None
        raise SettingError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another --host or --port"
        ) from None
