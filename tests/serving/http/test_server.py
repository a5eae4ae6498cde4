"""A real gunicorn: starting, stopping, limits, slow and broken clients."""

import http.client
import json
import re
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_classifier.package.package import write_package
from image_classifier.serving.http.connection import PacedSocket, SlowSenderError
from image_classifier.serving.observe.log import line
from tests.conftest import COLOURS, SIZE, colour_images, colour_model, colour_probabilities
from tests.serving.server_process import large_png, running, start


def raw(server, *pieces, wait=10.0):
    """What the server sends to these bytes until it closes the connection or `wait` seconds pass."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        try:
            while received := connection.recv(65536):
                answer += received
        except TimeoutError:
            pass
        return answer


def test_it_is_ready_and_answers(server, pngs):
    assert server.ask("GET", "/healthz").json == {"status": "live"}
    assert server.ask("GET", "/readyz").json == {"status": "ready"}
    answer = server.ask("POST", "/predict", pngs["blue"], Content_Type="image/png")
    assert (answer.status, answer.json["predictions"][0]["label"]) == (200, "blue")


def test_one_connection_carries_many_requests(server, pngs):
    connection = server.connect()
    for colour in [*COLOURS] * 3:
        connection.request("POST", "/predict", pngs[colour])
        response = connection.getresponse()
        assert response.getheader("Connection") == "keep-alive"
        assert f'"label":"{colour}"'.encode() in response.read()
    connection.close()


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.6])
def test_a_request_that_comes_in_pieces_is_answered(server, pngs, seconds):
    connection = server.connect()
    for colour in COLOURS:
        image = pngs[colour]
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(len(image)))
        connection.endheaders(image[:40])
        time.sleep(seconds)
        connection.send(image[40:])
        assert f'"label":"{colour}"'.encode() in connection.getresponse().read()
    connection.close()


def test_a_request_leaves_one_line_in_the_log_and_a_good_probe_none(server, pngs):
    server.ask("POST", "/predict", pngs["red"], X_Request_Id="seen-1")
    server.ask("GET", "/readyz", X_Request_Id="seen-2")
    server.ask("GET", "/a%20%22b%0a", X_Request_Id="seen-3")
    deadline = time.monotonic() + 5
    while "seen-3" not in (text := server.log.read_text()):
        assert time.monotonic() < deadline, text  # a line is written when the answer has been sent
        time.sleep(0.01)
    [entry] = [line for line in text.splitlines() if "seen-1" in line]
    assert re.fullmatch(
        r"time=\S+Z event=request id=seen-1 client=127\.0\.0\.1 method=POST path=/predict status=200 "
        rf"ms=[\d.]+ received={len(pngs['red'])} sent=\d+",
        entry,
    )
    assert "seen-2" not in text
    assert r'path="/a \"b\n" status=404' in text


def test_a_log_value_cannot_forge_another():
    assert line(a="x", b="y c=z", d='"\n', e=None, f="") == 'a=x b="y c=z" d="\\"\\n" f=""'


@pytest.mark.parametrize("colour", COLOURS)
def test_a_chunked_upload_is_answered(server, pngs, colour):
    halves = iter([pngs[colour][:30], pngs[colour][30:]])
    answer = server.ask("POST", "/predict", halves, Content_Type="image/png")
    assert answer.json["predictions"][0]["label"] == colour


@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=b"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_refused_while_it_is_sent(server, content_type, chunked):
    part = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n'
    body = part + b"x" * 20_000_000
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536)) if chunked else body
    answer = server.ask("POST", "/predict", pieces, Content_Type=content_type)
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")
    assert "200,000 bytes" in answer.json["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_exactly_the_limit_is_read(server, pngs, chunked):
    body = pngs["red"].ljust(200_000, b"\0")
    answer = server.ask("POST", "/predict", iter([body]) if chunked else body, Content_Type="image/png")
    assert answer.status == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad header: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nGET / HTTP/1.1\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n", 400),
        (b"POST /nothing HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nGET / HTTP/1.1\r\n\r\n", 404),
    ],
)
def test_what_is_no_proper_request_is_refused_in_the_one_shape(server, request_bytes, status):
    answer = raw(server, request_bytes)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Content-Type: application/json" in answer
    assert answer.endswith(b'"status": %d}\n' % status)
    assert answer.count(b"HTTP/1.1") == 1


def test_connections_that_send_nothing_take_no_thread(server, pngs):
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    started = time.monotonic()
    assert server.ask("POST", "/predict", pngs["red"]).status == 200
    assert time.monotonic() - started < 2
    for connection in idle:
        connection.close()


def test_a_client_that_keeps_its_connection_open_holds_up_nobody(server, pngs):
    lazy = []
    for _ in range(10):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        lazy.append(connection)
    started = time.monotonic()
    assert server.ask("POST", "/predict", pngs["red"]).status == 200
    assert time.monotonic() - started < 4
    for connection in lazy:
        connection.close()


def test_a_request_has_one_deadline_that_only_bytes_extend():
    server_side, client_side = socket.socketpair()
    with server_side, client_side:
        paced = PacedSocket(server_side, seconds=0.3, lowest_rate=100)
        paced.begin_request()
        client_side.sendall(b"x" * 20)
        assert paced.recv(100) == b"x" * 20
        started = time.monotonic()
        with pytest.raises(SlowSenderError):
            paced.recv(100)
        assert 0.4 < time.monotonic() - started < 1
        client_side.sendall(b"late")
        with pytest.raises(SlowSenderError):
            paced.recv(100)
        paced.begin_request()
        assert paced.recv(100) == b"late"


def test_each_of_two_workers_loads_the_model_and_answers(package_folder, tmp_path, pngs):
    with running(package_folder, tmp_path / "log", "--drain-timeout", "0", workers=2) as server:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server.ask("POST", "/predict", pngs["red"]), range(40)))
        assert {answer.json["predictions"][0]["label"] for answer in answers} == {"red"}
        ready = re.findall(r"process=(\d+) event=ready", server.log.read_text())
        assert len(set(ready)) == 2
        assert server.stop() == 0


def test_a_stop_is_clean_and_quick_where_nothing_is_in_flight(package_folder, tmp_path):
    with running(package_folder, tmp_path / "log", "--drain-timeout", "5s") as server:
        idle = server.connect()
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 4
        assert "level=" not in server.log.read_text().split("event=ready", 1)[1]
        with pytest.raises(ConnectionRefusedError):
            server.ask("GET", "/healthz")


def test_nothing_in_flight_is_lost_when_it_is_stopped_under_load(package_folder, tmp_path, pngs):
    """Clients ask until /readyz says no, as behind a load balancer; one upload begins before and ends after."""
    with running(package_folder, tmp_path / "log", "--drain-timeout", "10s") as server:
        stopping = threading.Event()

        def keep_asking(reuse: bool) -> list[int]:
            statuses, connection = [], server.connect()
            while not stopping.is_set():
                connection.request("POST", "/predict", pngs["green"])
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
                if not reuse:
                    connection.close()
            return statuses

        def slow_upload() -> int:
            connection = server.connect()
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Length", str(len(pngs["blue"])))
            connection.endheaders(pngs["blue"][:40])
            stopping.wait()
            time.sleep(2.5)  # beyond the second in which new connections are still taken
            connection.send(pngs["blue"][40:])
            response = connection.getresponse()
            assert b'"label":"blue"' in response.read()
            return response.status

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(keep_asking, reuse) for reuse in (True, True, False)]
            upload = pool.submit(slow_upload)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 5
            while (readiness := server.ask("GET", "/readyz")).status == 200:
                assert time.monotonic() < deadline
            assert (readiness.status, readiness.headers["Retry-After"]) == (503, "1")
            assert server.ask("GET", "/healthz").headers["Connection"] == "close"
            stopping.set()
            statuses = [status for client in clients for status in client.result()]
            assert upload.result() == 200
        assert len(statuses) > 20
        assert set(statuses) == {200}
        assert server.process.wait(10) == 0


def test_a_stop_before_it_is_ready_is_clean(package_folder, tmp_path):
    server = start(package_folder, tmp_path / "log", "--drain-timeout", "0")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    while not children.read_text():
        assert server.process.poll() is None, server.log.read_text()
    time.sleep(0.02)  # until the worker listens for signals; it loads the model for longer
    assert server.stop() == 0
    assert "level=error" not in server.log.read_text()


def test_a_stop_does_not_wait_for_ever(package_folder, tmp_path):
    with running(package_folder, tmp_path / "log", "--drain-timeout", "1s") as server:
        held = server.connect()
        held.putrequest("POST", "/predict")
        held.putheader("Content-Length", "100")
        held.endheaders(b"x")
        time.sleep(0.2)
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 6


def test_a_model_that_answers_otherwise_ends_the_server_with_one_line(tmp_path):
    wrong = colour_probabilities()[::-1].copy()
    write_package(
        tmp_path / "package",
        model=colour_model(),
        classes=list(COLOURS),
        image_size=SIZE,
        provenance={},
        golden=(colour_images(), list(COLOURS), wrong),
        reference={},
    )
    server = start(tmp_path / "package", tmp_path / "log")
    assert server.process.wait(60) == 3
    assert re.fullmatch(r"error: golden image 0 of \S+ gives other probabilities.*\n", server.log.read_text())


def test_an_altered_package_ends_the_server_before_it_listens(tmp_path, package_folder):
    shutil.copytree(package_folder, tmp_path / "package")
    model = tmp_path / "package/model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    server = start(tmp_path / "package", tmp_path / "log")
    assert server.process.wait(60) == 1
    assert re.fullmatch(r"error: \S+model\.onnx is not the file that was packed.*\n", server.log.read_text())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "{taken}"], "is taken by another program; give another --port"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
    ],
)
def test_an_address_that_cannot_be_had_is_told_at_once(package_folder, tmp_path, options, words):
    with socket.create_server(("127.0.0.1", 0)) as other:
        options = [option.format(taken=other.getsockname()[1]) for option in options]
        server = start(package_folder, tmp_path / "log", *options)
        assert server.process.wait(30) == 1
    assert re.fullmatch(r"error: .*\n", server.log.read_text())
    assert words in server.log.read_text()


def test_who_comes_to_a_full_queue_is_told_at_once_and_health_does_not_wait(package_folder, pngs, tmp_path):
    large = large_png()
    with (
        running(package_folder, tmp_path / "log", "--threads", "1", "--queue", "1") as server,
        ThreadPoolExecutor(2) as clients,
    ):
        working = [clients.submit(server.ask, "POST", "/predict", large) for _ in range(2)]
        while b"image_classifier_requests_inside 2.0" not in server.ask("GET", "/metrics").body:
            assert not any(request.done() for request in working)
        refused = server.ask("POST", "/predict", pngs["red"])
        health = [server.ask("GET", path).status for path in ("/healthz", "/readyz")]
        # Nobody waited: those who came first are still at work.
        assert not all(request.done() for request in working)
        assert (refused.status, refused.json["code"]) == (503, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        assert health == [200, 200]
        assert [request.result().status for request in working] == [200, 200]
        assert server.ask("POST", "/predict", pngs["red"]).status == 200


def test_requests_that_arrive_together_are_all_answered(server, pngs):
    asked = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    unread = b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
    last = b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answers = raw(server, asked * 3 + unread + asked + last)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200"] * 3 + [b"404"] + [b"200"] * 2


def test_requests_that_arrive_whole_are_answered_one_after_the_other_on_many_connections(server, pngs):
    asked = (
        f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(pngs['red'])}\r\n\r\n".encode()
        + pngs["red"]
    )
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(20)]
    for _ in range(3):
        for client in clients:
            client.sendall(asked)
        for client in clients:
            response = http.client.HTTPResponse(client)
            response.begin()
            assert json.loads(response.read())["predictions"][0]["label"] == "red"
    for client in clients:
        client.close()


def test_a_hundred_slow_senders_hinder_nobody(server, pngs):
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    try:
        for number, connection in enumerate(slow):
            head = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
            connection.sendall(head if number % 2 else head + b"Content-Length: 5000\r\n\r\nx")
        for _ in range(20):
            assert server.ask("POST", "/predict", pngs["red"]).status == 200
    finally:
        for connection in slow:
            connection.close()


def test_a_trace_is_passed_on_and_names_the_request(server, pngs):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = server.ask("POST", "/predict", pngs["red"], traceparent=trace)
    assert answer.headers["traceparent"] == trace
    assert answer.headers["X-Request-Id"] == answer.json["request_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert server.ask("GET", "/healthz", traceparent="00-zz").headers["traceparent"] is None
