"""Deadlines of a connection."""

import pytest

from image_classifier.serving.http import connection
from image_classifier.serving.http.connection import KEEP_ALIVE_SECONDS, SEND_SECONDS, DeadlineSocket, SlowClientError


class FakeSocket:
    """Receives what `data` holds, and keeps the timeouts that were set."""

    def __init__(self, *data):
        self.data, self.timeouts = list(data), []

    def settimeout(self, seconds):
        self.timeouts.append(seconds)

    def recv(self, size):
        if not self.data:
            raise TimeoutError
        return self.data.pop(0)


def test_a_request_has_one_deadline_that_only_received_bytes_extend(monkeypatch):
    now = 100.0
    monkeypatch.setattr(connection.time, "monotonic", lambda: now)
    fake = FakeSocket(b"x" * 20)
    received = DeadlineSocket(fake, seconds=0.5, min_rate=80)
    received.begin_request()
    now += 0.25
    assert received.recv(100) == b"x" * 20
    with pytest.raises(SlowClientError):
        received.recv(100)
    # 0.25 s of the first 0.5 s are left; 20 bytes add another 0.25 s.
    assert fake.timeouts == [0.25, SEND_SECONDS, 0.5, SEND_SECONDS]
    now += 0.5
    fake.data = [b"late"]
    with pytest.raises(SlowClientError):
        received.recv(100)
    received.begin_request()
    assert received.recv(100) == b"late"


def test_a_connection_is_kept_longer_than_proxies_keep_it():
    """https://pkg.go.dev/net/http#DefaultTransport, which Knative's queue-proxy copies, keeps it for 90 s."""
    assert KEEP_ALIVE_SECONDS > 90 + 15
