"""Balancing connections between workers, and connections that the event loop handles."""

import contextlib
import http.client
import json
import os
import re
import socket
import time

import psutil
import pytest

from image_classifier.serving.http.gunicorn_worker import ConnectionCounts
from tests.conftest import COLORS


def test_the_worker_with_the_fewest_connections_accepts_the_next():
    counts = ConnectionCounts()
    assert not counts.should_defer(1, 3)
    assert not counts.should_defer(2, 3)
    assert counts.should_defer(1, 4)
    assert not counts.should_defer(2, 3)


def test_a_worker_that_ended_does_not_keep_others_from_accepting():
    counts = ConnectionCounts()
    counts.should_defer(1, 0)
    assert counts.should_defer(2, 1)
    counts.remove(1)
    assert not counts.should_defer(2, 1)


def test_a_worker_that_hangs_does_not_keep_others_from_accepting(monkeypatch):
    counts = ConnectionCounts()
    counts.should_defer(1, 0)
    assert counts.should_defer(2, 1)
    monkeypatch.setattr("image_classifier.serving.http.gunicorn_worker._STALE_SECONDS", 0.0)
    assert not counts.should_defer(2, 1)


def test_processes_forked_later_share_the_counts():
    counts = ConnectionCounts()
    if (child := os.fork()) == 0:
        counts.should_defer(1, 0)
        os._exit(0)
    os.waitpid(child, 0)
    assert counts.should_defer(2, 1)


def established(server):
    """Number of connections of each worker."""
    return [
        sum(connection.status == psutil.CONN_ESTABLISHED for connection in psutil.Process(worker).connections())
        for worker in server.workers
    ]


@pytest.mark.slow
def test_kept_connections_are_spread_evenly_over_the_workers(two_workers):
    time.sleep(0.5)  # a worker logs that it is ready, and accepts a moment later
    while any(established(two_workers)):
        time.sleep(0.01)
    clients = [two_workers.connect() for _ in range(8)]
    for client in clients:
        client.request("GET", "/healthz")
    for client in clients:
        assert client.getresponse().read()
    assert established(two_workers) == [4, 4]
    for client in clients:
        client.close()


@pytest.mark.slow
def test_one_connection_carries_many_requests(server, pngs):
    connection = server.connect()
    for color in [*COLORS] * 3:
        connection.request("POST", "/predict", pngs[color])
        response = connection.getresponse()
        assert response.getheader("Connection") == "keep-alive"
        assert f'"label":"{color}"'.encode() in response.read()
    connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.4])
def test_a_request_that_arrives_in_pieces_is_answered(server, pngs, seconds):
    """The rest of a small request arrives at once, while it is parked, or after it was given to a thread."""
    connection = server.connect()
    for color in ("red", "blue"):
        image = pngs[color]
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(len(image)))
        connection.endheaders(image[:40])
        time.sleep(seconds)
        connection.send(image[40:])
        assert f'"label":"{color}"'.encode() in connection.getresponse().read()
    connection.close()


def predict_request(image, *fields):
    lines = ["POST /predict HTTP/1.1", "Host: a", *fields, f"Content-Length: {len(image)}", "", ""]
    return "\r\n".join(lines).encode() + image


def parse_message(message):
    """Status line, header fields and content of an HTTP message, without the times."""
    head, content = message.split(b"\r\n\r\n", 1)
    status, *fields = head.decode().split("\r\n")
    content = json.loads(content)
    content.pop("milliseconds", None)
    return status, dict(field.split(": ", 1) for field in fields), content


@pytest.mark.slow
@pytest.mark.parametrize(("image", "status"), [("red", b"200"), ("damaged", b"400")])
def test_the_event_loop_and_a_thread_send_the_same_response(server, pngs, image, status):
    data = pngs["red"] if image == "red" else pngs["red"][:40]
    request = predict_request(data, "X-Request-Id: one", "traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        responses = []
        for pieces in ([request], [request[:30], request[30:]], [request]):
            for piece in pieces:
                client.sendall(piece)
                time.sleep(0.05)  # pieces go to a thread
            responses.append(client.recv(2**16))
    whole, in_pieces, again = map(parse_message, responses)
    assert responses[0].split()[1] == status
    for name in ("Date", "Content-Length"):
        assert all(fields.pop(name) for _, fields, _ in (whole, in_pieces, again))
    assert whole == in_pieces == again


@pytest.mark.slow
def test_a_client_that_does_not_read_its_responses_does_not_block_others(server, pngs):
    request = predict_request(pngs["red"])
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.2) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
        with contextlib.suppress(OSError):
            for _ in range(20_000):
                client.sendall(request)
        assert server.request("POST", "/predict", pngs["red"], timeout=5).status == 200


@pytest.mark.slow
def test_pipelined_requests_are_all_answered(server):
    probe = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    unread = b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
    last = b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(probe * 3 + unread + probe + last)
        responses = b"".join(iter(lambda: client.recv(2**16), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", responses) == [b"200"] * 3 + [b"404"] + [b"200"] * 2


@pytest.mark.slow
def test_requests_on_many_connections_at_the_same_time_are_all_answered(server, pngs):
    request = predict_request(pngs["red"])
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(20)]
    for _ in range(3):
        for client in clients:
            client.sendall(request)
        for client in clients:
            response = http.client.HTTPResponse(client)
            response.begin()
            assert json.loads(response.read())["predictions"][0]["label"] == "red"
    for client in clients:
        client.close()


@pytest.mark.slow
def test_connections_that_send_nothing_occupy_no_thread(server, pngs):
    """There are more connections than threads, and each is closed only after 10 s."""
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
    assert server.request("POST", "/predict", pngs["red"], timeout=5).status == 200
    for connection in idle:
        connection.close()


@pytest.mark.slow
def test_closing_connections_that_the_client_keeps_open_does_not_block_the_event_loop(server, pngs):
    """gunicorn would wait 2 s for each of them."""
    lazy = []
    for _ in range(10):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        lazy.append(connection)
    assert server.request("POST", "/predict", pngs["red"], timeout=5).status == 200
    for connection in lazy:
        connection.close()
