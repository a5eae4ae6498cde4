"""gunicorn's threaded worker, with deadlines for slow senders and a stop that loses nothing."""

import errno
import logging
import math
import socket
import sys
import threading
import time
from functools import partial
from selectors import EVENT_READ
from types import FrameType
from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn, ThreadWorker

from image_classifier.serving.errors import error_body, error_code
from image_classifier.serving.log import line

_log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 120
"""Longer than a proxy in front keeps an idle connection, which it would otherwise reuse as we close it: Knative's
queue-proxy keeps it for 90 s, as Go does by default, and nginx for 60."""
FIRST_BYTE_SECONDS = 10.0
REQUEST_SECONDS = 10.0
LOWEST_RATE = 32 * 1024
"""Bytes a second. A request may take REQUEST_SECONDS and as long as its bytes take at this rate."""
ANSWER_SECONDS = 30.0
_CHUNK = 2**16
"""Bytes received at a time."""
_NEXT_REQUEST_SECONDS = 0.02
_QUICK_BYTES = 2**17
"""A request that is answered in the loop is at most so long, and has arrived in full."""
_QUICK_AT_ONCE = 64
"""Of the connections that are ready at the same time so many are answered in the loop; the others, which would wait
too long, go to threads, where the queue's bound holds."""
_OFFER_SECONDS, _OFFER_TICK_SECONDS = 0.1, 0.003
"""So long at most a new connection is left to a worker that has fewer, and so often it is looked whether it has."""
_LINGER_SECONDS = 2.0
_LINGER_GAP_SECONDS = 0.2
_LAST_WORDS_SECONDS = 1.0
"""For who connected before the stop and has sent nothing yet."""
_STOP_TICK_SECONDS = 0.1


class SlowSenderError(TimeoutError):
    """A client does not send its request fast enough."""

    def __init__(self) -> None:
        # gunicorn logs a traceback for any other errno.
        super().__init__(errno.ECONNRESET, "the client sends too slowly")


class PacedSocket:
    """The reading side of a connection; a whole request has one deadline, which bytes received extend."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        seconds: float = REQUEST_SECONDS,
        lowest_rate: float = LOWEST_RATE,
    ) -> None:
        self._connection = connection
        self._seconds, self._lowest_rate = seconds, lowest_rate
        self._deadline = 0.0

    def begin_request(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def recv(self, size: int) -> bytes:
        """Like a socket's; raises SlowSenderError when the deadline passes."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise SlowSenderError
        self._connection.settimeout(left)
        try:
            data = self._connection.recv(size)
        except TimeoutError:
            raise SlowSenderError from None
        finally:
            self._connection.settimeout(ANSWER_SECONDS)
        self._deadline += len(data) / self._lowest_rate
        return data


class Connection(TConn):  # type: ignore[misc]
    """A client's connection."""

    parser: Any

    def init(self) -> None:
        """Called at the start of each request."""
        if self.parser is None:
            self._paced = PacedSocket(self.sock)
            self.parser = RequestParser(self.cfg, self._paced, self.client)
            self.parser.unreader.mxchunk = _CHUNK
        super().init()
        self._paced.begin_request()

    @property
    def holds_bytes(self) -> bool:
        """Whether bytes of the next request were received with those of the last one."""
        return bool(self.parser.unreader.buf.getbuffer().nbytes)

    def arrived(self, most: int) -> bytes:
        """What waits to be received, which stays there; "" where it is more than `most` bytes."""
        try:
            data = self.sock.recv(most + 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:  # the client is gone, which a thread finds out
            return b""
        return data if len(data) <= most else b""

    def receives_soon(self) -> bool:
        """Wait a moment for the next request: the way back through the poller takes longer than most answers."""
        try:
            self.sock.settimeout(_NEXT_REQUEST_SECONDS)
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:  # nothing came, or the client is gone, which the poller finds out
            return False
        finally:
            self.sock.settimeout(ANSWER_SECONDS)

    def set_timeout(self) -> None:
        # Not gunicorn's setting, which a stop sets to 0: this client was told that it may go on.
        self.timeout = time.monotonic() + KEEP_ALIVE_SECONDS

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002
        # Called in the loop that all connections share, where gunicorn would wait up to 2 s for the client.
        super().close(graceful=False)

    def linger(self) -> None:
        """Say that no more is sent, and read off what the client still sends.

        To close on unread bytes would reset the connection, and the client would not see the answer: so it
        learns that its upload is too large while it is still sending.
        """
        deadline = time.monotonic() + _LINGER_SECONDS
        try:
            self.sock.shutdown(socket.SHUT_WR)
            self.sock.settimeout(_LINGER_GAP_SECONDS)
            while time.monotonic() < deadline and self.sock.recv(2**16):
                pass
        except OSError:
            return  # The client is gone, or sends no more: there is nothing left to wait for.


class Worker(ThreadWorker):  # type: ignore[misc]
    """Serves connections; one takes a thread only while a request is received and answered.

    Its application has a `hot_path`, or None. While that is idle, the thread that polls the connections answers a
    request that has arrived whole and takes but a moment: to hand it to another thread and back takes longer than
    the answer, and threads wait for each other at each of their system calls.

    Its `balance` tells whether new connections are better left to another worker.

    It also has `draining`, an event, and `unready_seconds`: on SIGTERM it sets the event, still takes
    connections for that long, so that whoever balances the load can look elsewhere, then takes none, and ends
    when all requests are answered, or after gunicorn's graceful_timeout.
    """

    sockets: list[Any]
    _quick_left = 0
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

    def on_client_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        kept = self._answered_at_once(conn)
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
        kept = self._answered_at_once(conn)
        if kept is None:
            super().enqueue_req(conn)
        else:
            self.finish_request(conn, _Answered(kept))

    def _answered_at_once(self, conn: Connection) -> bool | None:
        """Answer in the loop and say whether the connection is kept; None where a thread has to."""
        hot_path = self.app.hot_path
        may_keep = self.cfg.keepalive and len(self.keepalived_conns) < self.max_keepalived
        if hot_path is None or self._quick_left == 0 or not may_keep or not hot_path.is_idle():
            return None
        arrived = conn.arrived(_QUICK_BYTES)
        request = hot_path.whole_request(arrived)
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

    def _is_offering(self) -> bool:
        return time.monotonic() - self._offered < _OFFER_SECONDS

    def _has_share(self) -> bool:
        return bool(self.app.balance.has_share(self.age, self.nr_conns))

    def _is_quick(self, conn: Connection) -> bool:
        hot_path = self.app.hot_path
        return bool(hot_path and hot_path.whole_request(conn.arrived(_QUICK_BYTES)))

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
        super().wait_for_and_dispatch_events(timeout)


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
