"""gunicorn's threaded worker, with a short way for small requests and a stop that loses nothing."""

import logging
import math
import socket
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
from image_classifier.serving.observe.log import line

if TYPE_CHECKING:  # gunicorn loads this before it is known where the workers' counts are added up
    from image_classifier.serving.http.hot_path import Head

_log = logging.getLogger(__name__)

FIRST_BYTE_SECONDS = 10.0
_QUICK_BYTES = 2**17
"""A request that is answered in the loop is at most so long, and has arrived in full."""
_QUICK_AT_ONCE = 64
"""Of the connections that are ready at the same time so many are answered in the loop; the others, which would wait
too long, go to threads, where the queue's bound holds."""
_REST_SECONDS, _TURN_SECONDS = 0.25, 0.025
"""So long the rest of a small request may take, and a whole one waits for its turn, before it is given a thread. Longer
turns would keep a client that the bounded queue refuses from hearing so at once."""
_PARKED_TICK_SECONDS = 0.01
"""So often it is looked whether one has waited for too long."""
_OFFER_SECONDS, _OFFER_TICK_SECONDS = 0.1, 0.003
"""So long at most a new connection is left to a worker that has fewer, and so often it is looked whether it has."""
_LAST_WORDS_SECONDS = 1.0
"""For who connected before the stop and has sent nothing yet."""
_STOP_TICK_SECONDS = 0.1


class Worker(ThreadWorker):  # type: ignore[misc]
    """Serves connections; one takes a thread only while a request is received and answered.

    Its application has a `hot_path`, or None. While that is idle, the thread that polls the connections answers a
    request that has arrived whole and takes but a moment: to hand it to another thread and back takes longer than
    the answer, and threads wait for each other at each of their system calls.

    While a part of such a request is missing, or threads are at work, it is parked in the poller for a moment: given
    to a thread it would keep the next ones from being answered in the loop, and so on until all of them are in threads.

    Its `balance` tells whether new connections are better left to another worker.

    It also has `draining`, an event, and `unready_seconds`: on SIGTERM it sets the event, still takes
    connections for that long, so that whoever balances the load can look elsewhere, then takes none, and ends
    when all requests are answered, or after gunicorn's graceful_timeout.
    """

    sockets: list[Any]
    _quick_left = 0
    _parked: "dict[Connection, _Parked]"
    _offered = -math.inf
    """When a new connection was first left to another worker."""

    def accept(self, listener: Any) -> None:
        """Let a new connection wait in the poller until its first byte is there, not in a thread."""
        now = time.monotonic()
        if self.alive and self._has_share():
            if now - self._offered > 2 * _OFFER_SECONDS:
                self._offered = now
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
        arrived, head = self._small_request(conn)
        if self._is_parked(conn, arrived, head):
            return
        kept = self._answered_at_once(conn, arrived, head)
        if not kept:
            self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        if kept:
            # Behind the others: those that were idle for longest come first.
            conn.set_timeout()
            self.keepalived_conns.append(conn)
        elif kept is None:
            super().enqueue_req(conn)
        else:
            self.finish_request(conn, _Answered(kept))

    def enqueue_req(self, conn: Connection) -> None:
        kept = self._answered_at_once(conn, *self._small_request(conn))
        if kept is None:
            super().enqueue_req(conn)
        else:
            self.finish_request(conn, _Answered(kept))

    def _small_request(self, conn: Connection) -> "tuple[bytes, Head | None]":
        """What has arrived of a request, and its head; None unless all of it is small and nothing about it unusual."""
        hot_path = self.app.hot_path
        if hot_path is None:
            return b"", None
        arrived = conn.arrived(_QUICK_BYTES)
        head = hot_path.usual_head(arrived)
        return arrived, head if head and head.end <= _QUICK_BYTES else None

    def _answered_at_once(self, conn: Connection, arrived: bytes, head: "Head | None") -> bool | None:
        """Answer in the loop and say whether the connection is kept; None where a thread has to."""
        hot_path = self.app.hot_path
        may_keep = self.cfg.keepalive and len(self.keepalived_conns) < self.max_keepalived
        if head is None or self._quick_left == 0 or not may_keep or not hot_path.is_idle():
            return None
        request = hot_path.whole_request(head, arrived)
        if request is None:
            return None
        started = time.monotonic()
        self._quick_left -= 1
        answer = hot_path.answer(request)
        try:
            conn.sock.recv(len(arrived))
            # All of it, or the client leaves its answers unread, and the loop waits for no client.
            kept = bool(conn.sock.send(answer.message) == len(answer.message))
        except OSError:
            kept = False
        self.log.request(
            id=answer.request_id,
            client=conn.client[0],
            method="POST",
            path=answer.path,
            status=answer.status.value,
            seconds=time.monotonic() - started,
            received=len(request.image),
            sent=len(answer.content),
        )
        return kept

    def _is_parked(self, conn: Connection, arrived: bytes, head: "Head | None") -> bool:
        """Whether this connection, which has something to receive, is left to the poller for now."""
        if self._parked.pop(conn, None) is not None:
            # All of it has come and it is its turn, or it has waited for long enough.
            conn.wakes_at(1)
            return False
        if head is None or not self.alive or len(arrived) > head.end:
            return False
        is_whole = len(arrived) == head.end
        if is_whole and self.app.hot_path.is_idle():
            return False
        conn.wakes_at(head.end + is_whole)
        self._parked[conn] = _Parked(
            is_whole, time.monotonic() + (_TURN_SECONDS if is_whole else _REST_SECONDS)
        )
        return True

    def _wake_parked(self) -> None:
        """Let the poller tell of those whose turn it is, or who have waited for long enough."""
        now, is_idle = time.monotonic(), self.app.hot_path.is_idle()
        for conn, parked in [*self._parked.items()]:
            if conn.sock.fileno() < 0:
                del self._parked[conn]
            elif parked.until <= now or (parked.is_whole and is_idle) or not self.alive:
                conn.wakes_at(1)

    def _is_offering(self) -> bool:
        return time.monotonic() - self._offered < _OFFER_SECONDS

    def _has_share(self) -> bool:
        return bool(self.app.balance.has_share(self.age, self.nr_conns))

    def _is_quick(self, conn: Connection) -> bool:
        return self._small_request(conn)[1] is not None

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        try:
            return bool(super()._keepalive_after(conn, keepalive))
        except OSError:  # A damaged body that was refused unread, which gunicorn would log with a traceback.
            return False

    def handle_request(self, req: Any, conn: Connection) -> Any:
        req.body = _Body(req)
        return super().handle_request(req, conn)

    def handle(self, conn: Connection) -> Any:
        kept = super().handle(conn)
        # A request that came with the end of the one before it is in memory already: the poller, to which gunicorn
        # would leave it, sees no more of it.
        while kept is True and (conn.holds_bytes or (conn.receives_soon() and not self._is_quick(conn))):
            kept = super().handle(conn)
        if kept is False:
            conn.linger()
        return kept

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer what gunicorn itself refuses, such as headers that are too large, in our form."""
        page = _Page()
        super().handle_error(req, page, addr, exc)
        status = int(page.content.split(b" ", 2)[1])
        reason = "the server failed; its log tells why" if status >= 500 else f"not accepted: {exc}"
        body = error_body(status, error_code(status), reason).encode()
        phrase = error_code(status).replace("_", " ").title()
        head = (
            f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            client.sendall(head.encode() + body)
        except OSError as error:
            _log.info(line(event="unanswered", status=status, reason=str(error)))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM. A second one, as when a whole process group gets it, changes nothing."""
        if self.app.draining.is_set():
            return
        self.app.draining.set()
        # gunicorn's way to say Connection: close in every answer from now on.
        self.cfg.set("keepalive", 0)
        stop = threading.Timer(self.app.unready_seconds, super().handle_exit, (sig, frame))
        stop.daemon = True
        stop.start()

    def set_accept_enabled(self, enabled: bool) -> None:
        """At the end, also answer who has connected already, and refuse who has not."""
        if self.alive:
            super().set_accept_enabled(enabled and not (self._is_offering() and self._has_share()))
            return
        for listener in self.sockets:
            taken = -1
            while taken != self.nr_conns:
                taken = self.nr_conns
                self.accept(listener)
        super().set_accept_enabled(False)
        for listener in self.sockets:
            listener.close()
        # gunicorn asks a second time where the stop came before its loop began.
        self.sockets = []
        self._wake_parked()
        self.wait_for_and_dispatch_events(0)
        now = time.monotonic()
        for connection in self.keepalived_conns:
            connection.timeout = now
        for connection in self.pending_conns:
            connection.timeout = min(connection.timeout, now + _LAST_WORDS_SECONDS)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        self._quick_left = _QUICK_AT_ONCE
        self.app.balance.say(self.age, self.nr_conns)
        if not self.alive:
            # gunicorn would wait for an event before it looks whether idle connections have timed out.
            timeout = min(timeout, _STOP_TICK_SECONDS)
        elif self._is_offering():
            # Only in its next turn does gunicorn's loop take connections again.
            timeout = min(timeout, _OFFER_TICK_SECONDS)
        if self._parked:
            self._wake_parked()
            timeout = min(timeout, _PARKED_TICK_SECONDS)
        super().wait_for_and_dispatch_events(timeout)


class _Parked(NamedTuple):
    """A small request that waits for its turn, or for its rest if it is not whole."""

    is_whole: bool
    until: float
    """As time.monotonic() tells it."""


class _Answered:
    """The outcome of a request that no thread was given, as gunicorn asks for it."""

    def __init__(self, kept: Any) -> None:
        self._kept = kept

    def cancelled(self) -> bool:
        return False

    def result(self) -> Any:
        return self._kept


class _Body:
    """A request's body; when it is damaged, its end is unknown, and the connection can serve no other request.

    gunicorn would read the rest of a damaged chunked body as the next request.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        # Not gunicorn's own buffer around it, which takes 1,024 bytes at a time and each time copies all received.
        self._reader = request.body.reader

    def read(self, size: int | None = None) -> bytes:
        try:
            content: bytes = self._reader.read(sys.maxsize if size is None or size < 0 else size)
        except (OSError, ParseException) as error:
            self._request.force_close()
            raise error if isinstance(error, OSError) else OSError(str(error)) from error
        return content


class _Page:
    """Takes what gunicorn writes to a socket."""

    def __init__(self) -> None:
        self.content = b""

    def gettimeout(self) -> float:
        return 0.0

    def sendall(self, content: bytes) -> None:
        self.content += content
