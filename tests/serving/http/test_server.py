"""A real gunicorn: start, responses, log, limits, shutdown."""

import re
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_classifier.errors import SettingError
from image_classifier.package.package import write_package
from image_classifier.serving.http import server as server_module
from tests.conftest import COLORS, SIZE, color_images, color_model, color_probabilities
from tests.serving.apps import server_options
from tests.serving.server_process import large_png, running, start

slow = pytest.mark.slow


@slow
def test_a_ready_server_answers_probes_and_predictions(server, pngs):
    assert server.request("GET", "/healthz").json == {"status": "live"}
    assert server.request("GET", "/readyz").json == {"status": "ready"}
    response = server.request("POST", "/predict", pngs["blue"], Content_Type="image/png")
    assert (response.status, response.json["predictions"][0]["label"]) == (200, "blue")


@slow
def test_a_request_is_logged_in_one_line_and_a_successful_probe_is_not(server, pngs):
    server.request("POST", "/predict", pngs["red"], X_Request_Id="logged-1")
    server.request("GET", "/readyz", X_Request_Id="logged-2")
    server.request("GET", "/a%20%22b%0a", X_Request_Id="logged-3")
    deadline = time.monotonic() + 5
    while "logged-3" not in (text := server.log.read_text()):
        assert time.monotonic() < deadline, text  # the line is written after the response was sent
        time.sleep(0.01)
    [entry] = [line for line in text.splitlines() if "logged-1" in line]
    assert re.fullmatch(
        r"time=\S+Z event=request id=logged-1 client=127\.0\.0\.1 method=POST path=/predict status=200 "
        rf"ms=[\d.]+ received={len(pngs['red'])} sent=\d+",
        entry,
    )
    assert "logged-2" not in text
    assert r'path="/a \"b\n" status=404' in text


@slow
@pytest.mark.parametrize("color", COLORS)
def test_a_chunked_upload_is_answered(server, pngs, color):
    halves = iter([pngs[color][:30], pngs[color][30:]])
    response = server.request("POST", "/predict", halves, Content_Type="image/png")
    assert response.json["predictions"][0]["label"] == color


@slow
@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=b"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_rejected_while_it_is_sent(server, content_type, chunked):
    part = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n'
    body = part + b"x" * 20_000_000
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536)) if chunked else body
    response = server.request("POST", "/predict", pieces, Content_Type=content_type)
    assert (response.status, response.json["code"]) == (413, "body_too_large")
    assert "200,000 bytes" in response.json["error"]


@slow
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_exactly_the_limit_is_accepted(server, pngs, chunked):
    body = pngs["red"].ljust(200_000, b"\0")
    response = server.request("POST", "/predict", iter([body]) if chunked else body, Content_Type="image/png")
    assert response.status == 200


@slow
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
def test_malformed_requests_get_one_json_error_and_the_connection_is_closed(server, request_bytes, status):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request_bytes)
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    assert response.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Content-Type: application/json" in response
    assert response.endswith(b'"status": %d}\n' % status)
    assert response.count(b"HTTP/1.1") == 1


@slow
def test_a_trace_is_returned_and_becomes_the_request_id(server, pngs):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    response = server.request("POST", "/predict", pngs["red"], traceparent=trace)
    assert response.headers["traceparent"] == trace
    assert response.headers["X-Request-Id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert response.json["request_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert server.request("GET", "/healthz", traceparent="00-zz").headers["traceparent"] is None


@slow
def test_two_workers_answer_on_every_route_as_soon_as_they_are_ready(package_folder, tmp_path, pngs):
    with running(package_folder, tmp_path / "log", "--drain-timeout", "0", workers=2) as server:
        assert server.request("GET", "/v1/models").status == 200
        with ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(lambda _: server.request("POST", "/predict", pngs["red"]), range(40)))
        assert {response.json["predictions"][0]["label"] for response in responses} == {"red"}
        assert len(set(server.workers)) == 2
        assert server.stop() == 0


@slow
def test_an_idle_connection_does_not_delay_a_shutdown(package_folder, tmp_path):
    with running(package_folder, tmp_path / "log", "--drain-timeout", "5s") as server:
        idle = server.connect()
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        assert server.stop(timeout=5) == 0
        assert "level=" not in server.log.read_text().split("event=ready", 1)[1]
        with pytest.raises(ConnectionRefusedError):
            server.request("GET", "/healthz")


@slow
def test_a_shutdown_under_load_loses_no_request(package_folder, tmp_path, pngs):
    """Clients send requests until /readyz fails, as behind a load balancer; an upload begins before and ends after."""
    with running(package_folder, tmp_path / "log", "--drain-timeout", "5s") as server:
        not_ready = threading.Event()

        def send_requests(keep_alive: bool) -> list[int]:
            statuses, connection = [], server.connect()
            while not not_ready.is_set():
                connection.request("POST", "/predict", pngs["green"])
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
                if not keep_alive:
                    connection.close()
            return statuses

        def slow_upload() -> int:
            connection = server.connect()
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Length", str(len(pngs["blue"])))
            connection.endheaders(pngs["blue"][:40])
            not_ready.wait()
            time.sleep(1.2)  # longer than the 0.5 s in which connections are still accepted
            connection.send(pngs["blue"][40:])
            response = connection.getresponse()
            assert b'"label":"blue"' in response.read()
            return response.status

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(send_requests, keep_alive) for keep_alive in (True, True, False)]
            upload = pool.submit(slow_upload)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            while (readiness := server.request("GET", "/readyz")).status == 200:
                pass
            assert (readiness.status, readiness.headers["Retry-After"]) == (503, "1")
            assert server.request("GET", "/healthz").headers["Connection"] == "close"
            not_ready.set()
            statuses = [status for client in clients for status in client.result()]
            assert upload.result() == 200
        assert len(statuses) > 20
        assert set(statuses) == {200}
        assert server.process.wait(10) == 0


@slow
def test_a_shutdown_before_the_server_is_ready_is_clean(package_folder, tmp_path):
    server = start(package_folder, tmp_path / "log", "--drain-timeout", "0")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    while not children.read_text():
        assert server.process.poll() is None, server.log.read_text()
    time.sleep(0.02)  # until the worker handles signals; loading the model takes longer
    assert server.stop() == 0
    assert "level=error" not in server.log.read_text()


@slow
def test_a_shutdown_ends_requests_that_do_not_finish_in_time(package_folder, tmp_path):
    """The upload itself would be ended only after 10 s."""
    with running(package_folder, tmp_path / "log", "--drain-timeout", "0") as server:
        upload = server.connect()
        upload.putrequest("POST", "/predict")
        upload.putheader("Content-Length", "100")
        upload.endheaders(b"x")
        time.sleep(0.2)
        assert server.stop(timeout=8) == 0


@slow
def test_a_model_with_wrong_probabilities_ends_the_server_with_one_line(tmp_path):
    wrong = color_probabilities()[::-1].copy()
    write_package(
        tmp_path / "package",
        model=color_model(),
        classes=list(COLORS),
        image_size=SIZE,
        provenance={},
        golden=(color_images(), list(COLORS), wrong),
        reference={},
    )
    server = start(tmp_path / "package", tmp_path / "log")
    assert server.process.wait(60) == 3
    assert re.fullmatch(r"error: golden image 0 of .*\n", server.log.read_text())


@slow
def test_an_altered_package_ends_the_server_with_one_line_before_it_listens(tmp_path, package_folder):
    shutil.copytree(package_folder, tmp_path / "package")
    model = tmp_path / "package/model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    server = start(tmp_path / "package", tmp_path / "log")
    assert server.process.wait(60) == 1
    assert re.fullmatch(r"error: \S+model\.onnx .*\n", server.log.read_text())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", r"port \d+ on 127\.0\.0\.1 is already in use; choose another --port"),
        ("203.0.113.1", r"cannot listen on 203\.0\.113\.1, port \d+: .*; choose another --host or --port"),
        ("no.such.host.invalid", r"cannot listen on no\.such\.host\.invalid, port \d+: "),
    ],
)
def test_an_address_that_cannot_be_used_is_an_error(model, monkeypatch, host, expected):
    monkeypatch.setattr(server_module, "return_large_blocks", lambda: None)  # it affects the whole process
    with socket.create_server(("127.0.0.1", 0)) as other:
        options = server_options(host=host, port=other.getsockname()[1])
        with pytest.raises(SettingError, match=expected):
            server_module.serve_package(options, model.package)


@slow
def test_a_full_queue_rejects_requests_at_once_and_probes_do_not_wait(package_folder, pngs, tmp_path):
    large = large_png()
    with (
        running(package_folder, tmp_path / "log", "--threads", "1", "--queue", "1") as server,
        ThreadPoolExecutor(2) as clients,
    ):
        in_flight = [clients.submit(server.request, "POST", "/predict", large) for _ in range(2)]
        while b"image_classifier_requests_inside 2.0" not in server.request("GET", "/metrics").body:
            assert not any(request.done() for request in in_flight)
        rejected = server.request("POST", "/predict", pngs["red"])
        probes = [server.request("GET", path).status for path in ("/healthz", "/readyz")]
        # None of them waited: the first requests are still in flight.
        assert not all(request.done() for request in in_flight)
        assert (rejected.status, rejected.json["code"]) == (503, "overloaded")
        assert rejected.headers["Retry-After"] == "1"
        assert probes == [200, 200]
        assert [request.result().status for request in in_flight] == [200, 200]
        assert server.request("POST", "/predict", pngs["red"]).status == 200
