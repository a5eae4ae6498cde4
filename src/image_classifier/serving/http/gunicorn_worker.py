"""gunicorn's threaded worker, with small requests handled in the event loop and a graceful shutdown."""

import logging
import math
import mmap
import socket
import struct
import sys
import threading
import time
from functools import partial
from selectors import EVENT_READ
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import ThreadWorker

from image_classifier.serving.http.connection import Connection
from image_classifier.serving.http.error_responses import error_body, error_code
from image_classifier.serving.observe.log import logfmt

if TYPE_CHECKING:  # brings prometheus_client, which must not be imported yet: see `serve_package`
    from image_classifier.serving.http.hot_path import RequestHead

_log = logging.getLogger(__name__)

FIRST_BYTE_SECONDS = 10.0
_INLINE_BYTES = 2**17  # maximum size of a request that is handled in the event loop
_INLINE_REQUESTS = 64
"""Maximum number of requests that one turn of the event loop handles itself. The others, which would wait too long, go
to threads, where the queue's limit applies."""
_REST_SECONDS = 0.25  # how long a partial small request may stay parked
_TURN_SECONDS = 0.025
"""How long a complete small request may stay parked. If it were longer, clients that the full queue refuses would
learn it late."""
_PARKED_TICK_SECONDS = 0.01  # interval of the check for parked requests that are due
_OFFER_SECONDS = 0.1  # how long a new connection is left to a worker that has fewer
_OFFER_TICK_SECONDS = 0.003  # interval of the check whether such a worker took it
_FINAL_REQUEST_SECONDS = 1.0  # at shutdown, for clients that are connected and have sent nothing yet
_SHUTDOWN_TICK_SECONDS = 0.1

_MAX_WORKERS = 64
_SLOT = struct.Struct("qd")
_STALE_SECONDS = 2.0
"""A worker's event loop updates its count every second; a worker that hangs must not keep others from accepting."""


class ConnectionCounts:
    """The number of connections of each worker, in memory that processes forked later share.

    All workers accept from one socket, and whichever wakes first takes the connection. A proxy opens its connections
    at once and keeps them: without balancing, one worker may get all of them while the other CPU is idle.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _MAX_WORKERS * _SLOT.size)

    def update(self, worker: int, connections: int) -> None:
        """Set the number of connections of the worker with that number."""
        _SLOT.pack_into(self._memory, worker % _MAX_WORKERS * _SLOT.size, connections, time.monotonic())

    def should_defer(self, worker: int, connections: int) -> bool:
        """Whether that worker, which has `connections`, should leave a new one to a worker that has fewer."""
        self.update(worker, connections)
        now, counts = time.monotonic(), _SLOT.iter_unpack(self._memory)
        return any(count < connections and now - updated < _STALE_SECONDS for count, updated in counts)

    def remove(self, worker: int) -> None:
        """Forget a worker that has ended."""
        _SLOT.pack_into(self._memory, worker % _MAX_WORKERS * _SLOT.size, 0, -_STALE_SECONDS)


class Worker(ThreadWorker):  # type: ignore[misc]
    """Serves connections; a connection occupies a thread only while a request is received and answered.

    If its application has a `hot_path` that is idle, the event loop itself answers a small request that has arrived
    completely: handing it to a thread and back takes longer than the response, and threads wait for each other at each
    system call. While such a request is incomplete, or threads are busy, it is parked in the poller for a moment: in a
    thread it would keep the next requests from being answered in the loop, until all of them are in threads.

    The application's `connection_counts` balance new connections between workers.

    On SIGTERM the worker sets the application's event `draining`, accepts connections for another `unready_seconds`, in
    which load balancers notice, then accepts none, and ends when all requests are answered or after gunicorn's
    graceful_timeout.
    """

    sockets: list[Any]
    _inline_left = 0
    _parked: "dict[Connection, _Parked]"
    _offered_at = -math.inf  # when a new connection was first left to another worker

    def accept(self, listener: Any) -> None:
        """Let a new connection wait for its first byte in the poller, not in a thread."""
        now = time.monotonic()
        if self.alive and self._should_defer():
            if now - self._offered_at > 2 * _OFFER_SECONDS:
                self._offered_at = now
            if self._is_offering():
                super().set_accept_enabled(False)
                return
        try:
            accepted, client = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.nr_conns += 1
        connection = Connection(self.cfg, accepted, client, listener.getsockname())
        connection.timeout = now + FIRST_BYTE_SECONDS
        self.pending_conns.append(connection)
        readable = partial(self.on_pending_socket_readable, connection)
        self.poller.register(connection.sock, EVENT_READ, readable)

    def init_process(self) -> None:
        self._parked = {}
        super().init_process()

    def on_client_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        data, head = self._small_request(conn)
        if self._park(conn, data, head):
            return
        keep_alive = self._respond_inline(conn, data, head)
        if not keep_alive:
            self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        if keep_alive:
            # At the end: the connections that have been idle for longest come first.
            conn.set_timeout()
            self.keepalived_conns.append(conn)
        elif keep_alive is None:
            super().enqueue_req(conn)
        else:
            self.finish_request(conn, _FinishedRequest(keep_alive))

    def enqueue_req(self, conn: Connection) -> None:
        keep_alive = self._respond_inline(conn, *self._small_request(conn))
        if keep_alive is None:
            super().enqueue_req(conn)
        else:
            self.finish_request(conn, _FinishedRequest(keep_alive))

    def _small_request(self, conn: Connection) -> "tuple[bytes, RequestHead | None]":
        """The received bytes of a request and its head; None if it is too large or needs gunicorn's parser."""
        hot_path = self.app.hot_path
        if hot_path is None:
            return b"", None
        data = conn.peek(_INLINE_BYTES)
        head = hot_path.parse_head(data)
        return data, head if head and head.end <= _INLINE_BYTES else None

    def _respond_inline(self, conn: Connection, data: bytes, head: "RequestHead | None") -> bool | None:
        """Answer in the event loop and return whether to keep the connection; None if a thread has to answer."""
        hot_path = self.app.hot_path
        may_keep = self.cfg.keepalive and len(self.keepalived_conns) < self.max_keepalived
        if head is None or self._inline_left == 0 or not may_keep or not hot_path.is_idle():
            return None
        request = hot_path.complete_request(head, data)
        if request is None:
            return None
        started = time.monotonic()
        self._inline_left -= 1
        response = hot_path.respond(request)
        try:
            conn.sock.recv(len(data))
            # If not all of it is sent, the client does not read its responses, and the loop does not wait for it.
            keep_alive = bool(conn.sock.send(response.message) == len(response.message))
        except OSError:
            keep_alive = False
        self.log.request(
            id=response.request_id,
            client=conn.client[0],
            method="POST",
            path=response.path,
            status=response.status.value,
            seconds=time.monotonic() - started,
            received=len(request.image),
            sent=len(response.content),
        )
        return keep_alive

    def _park(self, conn: Connection, data: bytes, head: "RequestHead | None") -> bool:
        """Whether this connection, which is readable, is left to the poller for the moment."""
        if self._parked.pop(conn, None) is not None:
            # It is complete and the hot path is idle, or it was parked for long enough.
            conn.set_low_water_mark(1)
            return False
        if head is None or not self.alive or len(data) > head.end:
            return False
        is_complete = len(data) == head.end
        if is_complete and self.app.hot_path.is_idle():
            return False
        conn.set_low_water_mark(head.end + is_complete)
        self._parked[conn] = _Parked(is_complete, time.monotonic() + (_TURN_SECONDS if is_complete else _REST_SECONDS))
        return True

    def _wake_parked(self) -> None:
        """Make the poller report the parked connections that can be answered, or were parked for long enough."""
        now, is_idle = time.monotonic(), self.app.hot_path.is_idle()
        for conn, parked in [*self._parked.items()]:
            if conn.sock.fileno() < 0:
                del self._parked[conn]
            elif parked.deadline <= now or (parked.is_complete and is_idle) or not self.alive:
                conn.set_low_water_mark(1)

    def _is_offering(self) -> bool:
        return time.monotonic() - self._offered_at < _OFFER_SECONDS

    def _should_defer(self) -> bool:
        return bool(self.app.connection_counts.should_defer(self.age, self.nr_conns))

    def _is_small(self, conn: Connection) -> bool:
        return self._small_request(conn)[1] is not None

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        try:
            return bool(super()._keepalive_after(conn, keepalive))
        except OSError:  # a malformed body that was refused unread; gunicorn would log a traceback
            return False

    def handle_request(self, req: Any, conn: Connection) -> Any:
        req.body = _RequestBody(req)
        return super().handle_request(req, conn)

    def handle(self, conn: Connection) -> Any:
        keep_alive = super().handle(conn)
        # A pipelined request is already in memory, so the poller, to which gunicorn would return the connection, never
        # reports it.
        while keep_alive is True and (
            conn.has_buffered_bytes or (conn.wait_for_next_request() and not self._is_small(conn))
        ):
            keep_alive = super().handle(conn)
        if keep_alive is False:
            conn.linger()
        return keep_alive

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Send the JSON error for what gunicorn itself refuses, such as headers that are too large."""
        page = _CapturedResponse()
        super().handle_error(req, page, addr, exc)
        status = int(page.content.split(b" ", 2)[1])
        reason = (
            "internal server error; the server's log has the reason" if status >= 500 else f"malformed request: {exc}"
        )
        body = error_body(status, error_code(status), reason).encode()
        phrase = error_code(status).replace("_", " ").title()
        head = (
            f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            client.sendall(head.encode() + body)
        except OSError as error:
            _log.info(logfmt(event="unanswered", status=status, reason=str(error)))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM. A second one, as when a whole process group gets it, has no effect."""
        if self.app.draining.is_set():
            return
        self.app.draining.set()
        # This makes gunicorn send Connection: close with every response.
        self.cfg.set("keepalive", 0)
        stop = threading.Timer(self.app.unready_seconds, super().handle_exit, (sig, frame))
        stop.daemon = True
        stop.start()

    def set_accept_enabled(self, enabled: bool) -> None:
        """At shutdown, accept the connections in the backlog and refuse later ones."""
        if self.alive:
            super().set_accept_enabled(enabled and not (self._is_offering() and self._should_defer()))
            return
        for listener in self.sockets:
            accepted = -1
            while accepted != self.nr_conns:
                accepted = self.nr_conns
                self.accept(listener)
        super().set_accept_enabled(False)
        for listener in self.sockets:
            listener.close()
        # gunicorn calls this a second time if SIGTERM came before its loop began.
        self.sockets = []
        self._wake_parked()
        self.wait_for_and_dispatch_events(0)
        now = time.monotonic()
        for connection in self.keepalived_conns:
            connection.timeout = now
        for connection in self.pending_conns:
            connection.timeout = min(connection.timeout, now + _FINAL_REQUEST_SECONDS)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        self._inline_left = _INLINE_REQUESTS
        self.app.connection_counts.update(self.age, self.nr_conns)
        if not self.alive:
            # gunicorn would wait for an event before it checks whether idle connections have timed out.
            timeout = min(timeout, _SHUTDOWN_TICK_SECONDS)
        elif self._is_offering():
            # gunicorn's loop accepts connections again only in its next turn.
            timeout = min(timeout, _OFFER_TICK_SECONDS)
        if self._parked:
            self._wake_parked()
            timeout = min(timeout, _PARKED_TICK_SECONDS)
        super().wait_for_and_dispatch_events(timeout)


class _Parked(NamedTuple):
    """A small request that waits until the hot path is idle, or for its rest if it is incomplete."""

    is_complete: bool
    deadline: float  # on the clock of time.monotonic()


class _FinishedRequest:
    """The part of a Future's interface that gunicorn uses, for a request that the event loop answered."""

    def __init__(self, keep_alive: Any) -> None:
        self._keep_alive = keep_alive

    def cancelled(self) -> bool:
        return False

    def result(self) -> Any:
        return self._keep_alive


class _RequestBody:
    """A request's body; if it is malformed, its end is unknown, and the connection is closed after the response.

    gunicorn would parse the rest of a malformed chunked body as the next request.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        # Not gunicorn's own buffer, which reads 1,024 bytes at a time and each time copies everything received.
        self._reader = request.body.reader

    def read(self, size: int | None = None) -> bytes:
        try:
            content: bytes = self._reader.read(sys.maxsize if size is None or size < 0 else size)
        except (OSError, ParseException) as error:
            self._request.force_close()
            raise error if isinstance(error, OSError) else OSError(str(error)) from error
        return content


class _CapturedResponse:
    """A stand-in for a socket that keeps what gunicorn sends."""

    def __init__(self) -> None:
        self.content = b""

    def gettimeout(self) -> float:
        return 0.0

    def sendall(self, content: bytes) -> None:
        self.content += content
