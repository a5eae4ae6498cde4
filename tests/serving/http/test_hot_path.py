"""The short ways give the answers of the long one."""

import contextlib
import json
import socket
import threading
import time

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from werkzeug.test import Client

from image_classifier.package.identity import Identity
from image_classifier.serving.http.hot_path import HotPath
from image_classifier.serving.web.app import create_app
from image_classifier.settings import Settings
from tests.serving.server_process import large_png

LIMIT = 20_000


@pytest.fixture(scope="module")
def app(model):
    settings = Settings(max_upload=LIMIT, max_pixels=10_000, image="registry.example.org/server@sha256:12")
    return create_app(settings, model, Identity.read(model.package, "colours"))


@pytest.fixture
def ways(app):
    """Clients of the application with and without the short way."""
    assert isinstance(app.wsgi_app, HotPath)
    return Client(app.wsgi_app), Client(app.wsgi_app._application)


def told(answer):
    content = json.loads(answer.data)
    if "milliseconds" in content:
        assert content["milliseconds"].keys() == {"decode", "infer"}
        content["milliseconds"] = None
    headers = {name: value for name, value in answer.headers if name != "Content-Length"}
    return answer.status_code, headers, content


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", None])
@pytest.mark.parametrize("trace", ["", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
def test_an_image_is_answered_alike(ways, pngs, content_type, trace):
    headers = {"X-Request-Id": "a-1", "traceparent": trace}
    short, long = (
        told(way.post("/predict", data=pngs["green"], content_type=content_type, headers=headers))
        for way in ways
    )
    assert short == long
    assert short[2]["predictions"][0]["label"] == "green"


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"no image", 400), (b"x" * (LIMIT + 1), 413), (b"\x89PNG\r\n\x1a\n" + b"\0" * 30, 400)],
)
def test_a_refusal_is_told_alike(ways, body, status):
    short, long = (
        told(way.post("/predict", data=body, content_type="image/png", headers={"X-Request-Id": "a-1"}))
        for way in ways
    )
    assert short == long
    assert short[0] == status


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/readyz?a=b"])
def test_a_probe_is_answered_alike(model, path, draining):
    stopping = threading.Event()
    app = create_app(Settings(), model, Identity.read(model.package, "colours"), draining=stopping)
    if draining:
        stopping.set()
    short, long = (
        told(Client(way).get(path, headers={"X-Request-Id": "a-1"}))
        for way in (app.wsgi_app, app.wsgi_app._application)
    )
    assert short == long
    assert short[0] == (503 if draining and path.startswith("/readyz") else 200)


def test_a_failure_of_ours_is_told_alike_and_logged(ways, pngs, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("image_classifier.serving.inference.Turn.ask", fail)
    short, long = (
        told(
            way.post("/predict", data=pngs["red"], content_type="image/png", headers={"X-Request-Id": "a-1"})
        )
        for way in ways
    )
    assert short == long
    assert short[0] == 500
    assert caplog.text.count("request a-1 failed: POST /predict") == 2


def test_what_it_counts_is_what_flask_would_count(ways, pngs):
    def counted(way):
        text = ways[1].get("/metrics").text
        return next(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith('image_classifier_requests_total{route="/predict",status="200"}')
        )

    for way in ways:
        way.post("/predict", data=pngs["red"], content_type="image/png")
    before = counted(ways)
    for way in ways:
        way.post("/predict", data=pngs["red"], content_type="image/png")
    assert counted(ways) == before + 2


def test_what_it_does_not_know_goes_to_flask(ways, pngs):
    short, _ = ways
    assert len(short.post("/predict?top=2", data=pngs["red"]).json["predictions"][0]["top"]) == 2
    assert short.get("/predict").status_code == 405
    assert short.post("/predict", data=b"{}", content_type="application/json").status_code == 415


def test_a_server_with_a_token_or_origins_has_no_short_way(model):
    for settings in (Settings(token="secret"), Settings(cors_origins="https://a.example.org")):
        app = create_app(settings, model, Identity.read(model.package, "colours"))
        assert not isinstance(app.wsgi_app, HotPath)


def request_for(image, *fields):
    lines = ["POST /predict HTTP/1.1", "Host: a", *fields, f"Content-Length: {len(image)}", "", ""]
    return "\r\n".join(lines).encode() + image


def whole_request(app, data):
    """As the worker asks for it."""
    head = app.wsgi_app.usual_head(data)
    return head and app.wsgi_app.whole_request(head, data)


def test_a_whole_request_for_a_small_image_is_recognized(app, pngs):
    request = whole_request(app, request_for(pngs["red"], "Content-Type: image/png", "X-A:b c"))
    assert request.image == pngs["red"]
    assert (request.fields["content-type"], request.fields["x-a"]) == ("image/png", "b c")
    assert app.wsgi_app.is_idle()


@pytest.mark.parametrize(
    "field",
    [
        "Transfer-Encoding: chunked",
        "Content-Length: 3",
        "Content-Length: 03",
        "Host: b",
        "Connection: close",
        "Expect: 100-continue",
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Type: application/json",
        "X-Empty:",
        "X-Name : a",
        "X-Fold: a\r\n b",
        "X-Control: a\x01b",
        "X-Bare: a\nb: c",
        "X_Under: a",
        "Authorization: Bearer a",
    ],
)
def test_what_is_unusual_is_left_to_gunicorn(app, pngs, field):
    assert whole_request(app, request_for(pngs["red"], field)) is None


def test_what_is_not_all_there_or_not_small_is_left_to_gunicorn(app, pngs):
    request = request_for(pngs["red"])
    for other in (
        request[:-1],
        request + b"P",
        request.replace(b"POST", b"GET"),
        request.replace(b"/predict", b"/explain"),
        request.replace(b"HTTP/1.1", b"HTTP/1.0"),
        request.replace(b"Host: a\r\n", b""),
        request.replace(b"\r\n", b"\n"),
        request_for(large_png()),
        request_for(pngs["red"] + bytes(LIMIT)),
        request_for(b"no image"),
        b"",
    ):
        assert whole_request(app, other) is None


@hypothesis.settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 200))
def test_any_bytes_are_a_request_or_not(app, data, start):
    request = whole_request(app, request_for(b"\xff\xd8" + data)[start:])
    assert request is None or app.wsgi_app.answer(request).status in (200, 400, 413)


def message_of(answer):
    """Status line, fields and content of an HTTP message."""
    head, content = answer.split(b"\r\n\r\n", 1)
    status, *fields = head.decode().split("\r\n")
    content = json.loads(content)
    content.pop("milliseconds", None)
    return status, {field.split(": ", 1)[0]: field.split(": ", 1)[1] for field in fields}, content


@pytest.mark.parametrize(("image", "status"), [("red", b"200"), ("damaged", b"400")])
def test_one_connection_gets_the_same_from_the_loop_and_from_a_thread(server, pngs, image, status):
    data = pngs["red"] if image == "red" else pngs["red"][:40]
    asked = request_for(data, "X-Request-Id: one", "traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        answers = []
        for pieces in ([asked], [asked[:30], asked[30:]], [asked]):
            for piece in pieces:
                client.sendall(piece)
                time.sleep(0.05)  # what comes in pieces goes to a thread
            answers.append(client.recv(2**16))
    whole, pieced, again = map(message_of, answers)
    assert answers[0].split()[1] == status
    for name in ("Date", "Content-Length"):
        assert all(fields.pop(name) for _, fields, _ in (whole, pieced, again))
    assert whole == pieced == again


def test_a_client_that_leaves_its_answers_unread_hinders_nobody(server, pngs):
    asked = request_for(pngs["red"])
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.2) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
        with contextlib.suppress(OSError):
            for _ in range(20_000):
                client.sendall(asked)
        started = time.monotonic()
        assert server.ask("POST", "/predict", pngs["red"]).status == 200
        assert time.monotonic() - started < 5
