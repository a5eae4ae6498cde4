"""The server's log: one line an event, key=value. Requests go to stdout, all else to stderr."""

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


def line(**fields: object) -> str:
    """`key=value` pairs on one line; a value with spaces, quotes or control characters is a JSON string."""
    texts = {name: str(value) for name, value in fields.items() if value is not None}
    return " ".join(
        f"{name}={text if _PLAIN.fullmatch(text) else json.dumps(text)}" for name, text in texts.items()
    )


class Formatter(logging.Formatter):
    """Puts time and level before a message; a traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        fields = line(time=_now(), level=record.levelname.lower(), process=record.process)
        message = record.getMessage()
        # What is a line of fields already is not quoted again.
        text = f"{fields} {message if message.startswith('event=') else line(message=message)}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class Log(Logger):  # type: ignore[misc]
    """gunicorn's log, and ours, in one form."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(Formatter())
        ours = logging.getLogger("image_classifier")
        ours.handlers = list(self.error_log.handlers)
        ours.setLevel(logging.INFO)
        ours.propagate = False

    def error(self, msg: str, *args: Any, **kwargs: Any) -> None:
        # A worker that cannot boot has said why, in one line; gunicorn's three on the consequences hide it.
        if msg.startswith(("Shutting down", "Reason")):
            return
        if msg.startswith("Worker") and args[1:] == (Arbiter.WORKER_BOOT_ERROR,):
            return
        super().error(msg, *args, **kwargs)

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """One line a request, but none for a probe that found what it looked for."""
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
            received=environ.get("CONTENT_LENGTH"),
            sent=resp.sent,
        )

    def request(self, *, seconds: float, received: object, sent: int, **fields: object) -> None:
        """One line about a request."""
        milliseconds = round(seconds * 1e3, 1)
        text = line(time=_now(), event="request", **fields, ms=milliseconds, received=received, sent=sent)
        # Not through logging, which takes as long for a line as is decoded from a small image; written in one piece, as
        # a pipe keeps together what several workers write.
        with suppress(OSError):  # who read the log is gone, and the clients are still there
            os.write(sys.stdout.fileno(), f"{text}\n".encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
