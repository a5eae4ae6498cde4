"""A client's connection, with deadlines for slow clients."""

import errno
import socket
import time
from typing import Any

from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn

KEEP_ALIVE_SECONDS = 120
"""Longer than a proxy in front keeps an idle connection, which it would otherwise reuse while the server closes it:
Knative's queue-proxy keeps it for 90 s, as Go does by default, and nginx for 60 s."""
REQUEST_SECONDS = 10.0
MIN_BYTES_PER_SECOND = 32 * 1024  # a request may take REQUEST_SECONDS plus the time that its bytes take at this rate
SEND_SECONDS = 30.0  # timeout while a response is sent
_RECEIVE_BYTES = 2**16
_NEXT_REQUEST_SECONDS = 0.02
_LINGER_SECONDS = 2.0
_LINGER_GAP_SECONDS = 0.2


class SlowClientError(TimeoutError):
    """A client sends its request too slowly."""

    def __init__(self) -> None:
        # gunicorn logs a traceback for any other errno.
        super().__init__(errno.ECONNRESET, "the client sends too slowly")


class DeadlineSocket:
    """The receiving side of a connection, with one deadline for a whole request that received bytes extend."""

    def __init__(
        self, connection: socket.socket, *, seconds: float = REQUEST_SECONDS, min_rate: float = MIN_BYTES_PER_SECOND
    ) -> None:
        self._connection = connection
        self._seconds, self._min_rate = seconds, min_rate
        self._deadline = 0.0

    def begin_request(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def recv(self, size: int) -> bytes:
        """Like `socket.recv`; raises SlowClientError when the deadline passes."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise SlowClientError
        self._connection.settimeout(left)
        try:
            data = self._connection.recv(size)
        except TimeoutError:
            raise SlowClientError from None
        finally:
            self._connection.settimeout(SEND_SECONDS)
        self._deadline += len(data) / self._min_rate
        return data


class Connection(TConn):  # type: ignore[misc]
    """A client's connection."""

    parser: Any

    def init(self) -> None:
        """Called at the start of each request."""
        if self.parser is None:
            self._receiver = DeadlineSocket(self.sock)
            self.parser = RequestParser(self.cfg, self._receiver, self.client)
            self.parser.unreader.mxchunk = _RECEIVE_BYTES
        super().init()
        self._receiver.begin_request()

    @property
    def has_buffered_bytes(self) -> bool:
        """Whether bytes of the next request were received with those of the last one."""
        return bool(self.parser.unreader.buf.getbuffer().nbytes)

    def peek(self, limit: int) -> bytes:
        """The bytes in the receive buffer, which stay there; b"" if there are more than `limit`."""
        try:
            data = self.sock.recv(limit + 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:  # the client is gone, which a thread will notice
            return b""
        return data if len(data) <= limit else b""

    def set_low_water_mark(self, count: int) -> None:
        """Make the poller report this connection only when `count` bytes are in the receive buffer, or its end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def wait_for_next_request(self) -> bool:
        """Whether the next request begins within a moment: the poller takes longer than most responses."""
        try:
            self.sock.settimeout(_NEXT_REQUEST_SECONDS)
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:  # nothing arrived, or the client is gone, which the poller will notice
            return False
        finally:
            self.sock.settimeout(SEND_SECONDS)

    def set_timeout(self) -> None:
        # Not gunicorn's setting, which is set to 0 at shutdown: this client was promised keep-alive.
        self.timeout = time.monotonic() + KEEP_ALIVE_SECONDS

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002
        # Called in the event loop, where gunicorn would wait up to 2 s for the client.
        super().close(graceful=False)

    def linger(self) -> None:
        """Close the sending side, then discard what the client still sends (lingering close).

        Closing a socket with unread bytes resets the connection, and a client that is still sending its too large
        upload would not see the 413.
        """
        deadline = time.monotonic() + _LINGER_SECONDS
        try:
            self.sock.shutdown(socket.SHUT_WR)
            self.sock.settimeout(_LINGER_GAP_SECONDS)
            while time.monotonic() < deadline and self.sock.recv(2**16):
                pass
        except OSError:
            return  # the client is gone, or sends nothing more
