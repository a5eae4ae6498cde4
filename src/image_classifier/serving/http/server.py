"""The server process: gunicorn, run from here, with one package."""

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

from image_classifier.errors import PackageError, SettingError
from image_classifier.package import Identity, Model, Package, load_runtime
from image_classifier.process import available_cpus, give_back_large_blocks, lasting
from image_classifier.serving.http.balance import Balance
from image_classifier.serving.http.connection import KEEP_ALIVE_SECONDS
from image_classifier.serving.http.worker import Worker
from image_classifier.serving.observe.log import Log, line
from image_classifier.settings import Settings

if TYPE_CHECKING:  # these bring prometheus_client
    from image_classifier.serving.http.hot_path import Application, HotPath
    from image_classifier.serving.service import Service

WORKER_TIMEOUT_SECONDS = 120
"""A worker whose main loop, which only passes requests on to threads, stands still so long is replaced."""
BACKLOG = 1024
SPARE_THREADS = 128
"""Beside those for requests at work or in the queue: they refuse, answer probes and wait for slow senders."""
UNREADY_SHARE, MOST_UNREADY_SECONDS = 0.1, 2.0
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (a file that is unlinked at once)

_log = logging.getLogger(__name__)


def serve(settings: Settings, package: Package) -> None:
    """Serve the package, which is read and verified, until SIGTERM or SIGINT.

    Ends by SystemExit, with status 0 after a stop. Each worker loads the model after it was forked, for ONNX Runtime's
    threads do not survive a fork, and replays the golden images before it takes its first connection; where that
    fails the server ends with gunicorn's status 3 and the reason.

    Raises PackageError for a version.json or a reference that cannot be used, and SettingError where it cannot listen
    at the address.
    """
    give_back_large_blocks()
    identity = Identity.read(package, settings.name)
    listener = _listen(settings.host, settings.port)
    address = _address(listener)
    cpus = max(1, available_cpus() // settings.workers)
    # More would only wait for each other: decoding and the model are all work and no waiting.
    places = settings.threads or cpus
    sharing = _shared_counts() if settings.workers > 1 else {}
    with lasting():
        # After the folder of the shared counts is known, which is when prometheus_client must be imported.
        from image_classifier.serving.observe.drift_windows import Drift
        from image_classifier.serving.service import Service

        load_runtime()
    drift = Drift(settings, package)

    def load(draining: threading.Event) -> Service:
        model = Model.load(package, cpus)
        service = Service(settings, model, identity, places=places, draining=draining, drift=drift)
        _log.info(
            line(
                event="ready",
                address=address,
                model=identity.name,
                version=identity.version,
                digest=identity.digest[:12],
                threads=places,
                inference_threads=cpus,
            )
        )
        return service

    options = {
        "bind": f"fd://{listener.detach()}",
        "backlog": BACKLOG,
        "workers": settings.workers,
        "worker_class": Worker,
        "threads": places + settings.queue + SPARE_THREADS,
        "timeout": WORKER_TIMEOUT_SECONDS,
        "keepalive": KEEP_ALIVE_SECONDS,
        # What still runs by then is killed.
        "graceful_timeout": math.ceil(settings.drain_timeout) + 1,
        # A heartbeat on a disk that stalls would read as a dead worker.
        "worker_tmp_dir": str(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None,
        "control_socket_disable": True,
        "logger_class": Log,
        "accesslog": "-",
        "loglevel": "warning",
        "proc_name": "image-classifier",
        **sharing,
    }
    _Application(options, load, settings.drain_timeout).run()


class _Application(BaseApplication):  # type: ignore[misc]
    """What gunicorn runs: its options, and how a worker gets the application."""

    def __init__(
        self,
        options: Mapping[str, Any],
        load: Callable[[threading.Event], "Service"],
        drain_timeout: float,
    ) -> None:
        self._options, self._load = options, load
        self.draining = threading.Event()
        self.balance = Balance()
        self.hot_path: HotPath | None = None
        self.unready_seconds = min(MOST_UNREADY_SECONDS, UNREADY_SHARE * drain_timeout)
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> "Application":
        with lasting():
            try:
                service = self._load(self.draining)
            except PackageError as error:
                click.echo(f"error: {error}", err=True)
                # Any other status and gunicorn would start the worker again, for ever.
                sys.exit(Arbiter.WORKER_BOOT_ERROR)
            if not service.has_hot_path:
                return _flask_application(service)
        from image_classifier.serving.http.late import (
            LateApplication,  # not before the service, as in `serve`
        )

        # Flask takes as long to load as all else of a worker. Meanwhile who asks for an image is answered, and a probe.
        self.hot_path = service.hot_path(LateApplication(lambda: _loaded_late(service)))
        return self.hot_path


def _loaded_late(service: "Service") -> "Application":
    try:
        return _flask_application(service)
    except BaseException:
        _log.exception("the application cannot be loaded")
        os._exit(Arbiter.WORKER_BOOT_ERROR)
    finally:
        gc.freeze()


def _flask_application(service: "Service") -> "Application":
    from image_classifier.serving.web.app import application_of

    return application_of(service).wsgi_app


def _shared_counts() -> dict[str, Any]:
    """Let the workers share their counts in a folder; gunicorn's hooks that keep it."""
    folder = tempfile.mkdtemp(prefix="image-classifier-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder

    def forget_worker(arbiter: Arbiter, worker: Worker) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        arbiter.app.balance.forget(worker.age)
        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]

    def forget_all(arbiter: Arbiter) -> None:  # noqa: ARG001
        shutil.rmtree(folder, ignore_errors=True)

    return {"child_exit": forget_worker, "on_exit": forget_all}


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingError(
                f"port {port} of {host} is taken by another program; give another --port"
            ) from None
        raise SettingError(
            f"cannot listen on {host}, port {port}: {error.strerror}; give another --host or --port"
        ) from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
