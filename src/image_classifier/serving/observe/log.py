"""The server's log in logfmt, one line per event. Requests go to stdout, everything else to stderr."""

import json
import logging
import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from image_classifier.serving.http.health import LIVE_PATH, READY_PATH

_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f]+")


def logfmt(**fields: object) -> str:
    """`key=value` pairs on one line; a value with spaces, quotes or control characters is a JSON string."""
    texts = {name: str(value) for name, value in fields.items() if value is not None}
    return " ".join(f"{name}={text if _PLAIN.fullmatch(text) else json.dumps(text)}" for name, text in texts.items())


class LogfmtFormatter(logging.Formatter):
    """Puts time, level and process ID before a message; a traceback follows on separate lines."""

    def format(self, record: logging.LogRecord) -> str:
        fields = logfmt(time=_now(), level=record.levelname.lower(), process=record.process)
        message = record.getMessage()
        # A message in logfmt is not quoted again.
        text = f"{fields} {message if message.startswith('event=') else logfmt(message=message)}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class ServerLogger(Logger):  # type: ignore[misc]
    """The logger of gunicorn and of this package, in one format."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(LogfmtFormatter())
        package_log = logging.getLogger("image_classifier")
        package_log.handlers = list(self.error_log.handlers)
        package_log.setLevel(logging.INFO)
        package_log.propagate = False

    def error(self, msg: str, *args: Any, **kwargs: Any) -> None:
        # A worker that cannot start has logged the reason in one line, which gunicorn's three lines would hide.
        if msg.startswith(("Shutting down", "Reason")):
            return
        if msg.startswith("Worker") and args[1:] == (Arbiter.WORKER_BOOT_ERROR,):
            return
        super().error(msg, *args, **kwargs)

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """Log a request that gunicorn handled; successful probes are not logged."""
        status = int(str(resp.status).split()[0])
        path = environ.get("PATH_INFO") or environ.get("RAW_URI")
        if path in (LIVE_PATH, READY_PATH) and status == 200:
            return
        headers = {name.lower(): value for name, value in resp.headers}
        self.request(
            id=headers.get("x-request-id"),
            client=environ.get("REMOTE_ADDR"),
            method=req.method,
            path=path,
            status=status,
            seconds=request_time.total_seconds(),
            received=dict(req.headers).get("CONTENT-LENGTH"),
            sent=resp.sent,
        )

    def request(self, *, seconds: float, received: object, sent: int, **fields: object) -> None:
        """Log a request."""
        milliseconds = round(seconds * 1e3, 1)
        text = logfmt(time=_now(), event="request", **fields, ms=milliseconds, received=received, sent=sent)
        # Not through logging, which takes as long as decoding a small image. In one write, because a pipe then keeps
        # the lines of several workers apart.
        with suppress(OSError):  # a closed log must not fail the request
            os.write(sys.stdout.fileno(), f"{text}\n".encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
