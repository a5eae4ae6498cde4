"""A client's connection, with deadlines for slow senders."""

import errno
import socket
import time
from typing import Any

from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn

KEEP_ALIVE_SECONDS = 120
"""Longer than a proxy in front keeps an idle connection, which it would otherwise reuse as we close it: Knative's
queue-proxy keeps it for 90 s, as Go does by default, and nginx for 60."""
REQUEST_SECONDS = 10.0
LOWEST_RATE = 32 * 1024
"""Bytes a second. A request may take REQUEST_SECONDS and as long as its bytes take at this rate."""
ANSWER_SECONDS = 30.0
_CHUNK = 2**16
"""Bytes received at a time."""
_NEXT_REQUEST_SECONDS = 0.02
_LINGER_SECONDS = 2.0
_LINGER_GAP_SECONDS = 0.2


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

    def wakes_at(self, count: int) -> None:
        """Let the poller tell of this connection only when so many bytes wait to be received, or its end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

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
