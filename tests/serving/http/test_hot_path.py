"""The hot path responds like Flask, and leaves everything unusual to gunicorn and Flask."""

import gzip
import json
import subprocess
import sys
import threading

import hypothesis
import pytest
from hypothesis import HealthCheck, given, strategies as st
from werkzeug.test import Client

from image_classifier.serving.http.hot_path import BackgroundApplication, HotPath
from tests.serving.apps import make_app
from tests.serving.http.test_gunicorn_worker import predict_request
from tests.serving.server_process import large_png, start

MAX_UPLOAD = 20_000


@pytest.fixture(scope="module")
def app(model):
    return make_app(model, max_upload=MAX_UPLOAD, max_pixels=10_000, image="registry.example.org/server@sha256:12")


@pytest.fixture
def clients(app):
    """Clients of the application with and without its hot path."""
    assert isinstance(app.wsgi_app, HotPath)
    return Client(app.wsgi_app), Client(app.wsgi_app._application)


def parts(response):
    """Status, headers and content of a response, without the times."""
    content = json.loads(response.data)
    if "milliseconds" in content:
        assert content["milliseconds"].keys() == {"decode", "infer"}
        content["milliseconds"] = None
    headers = {name: value for name, value in response.headers if name != "Content-Length"}
    return response.status_code, headers, content


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", None])
@pytest.mark.parametrize("trace", ["", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
def test_predictions_are_the_same(clients, pngs, content_type, trace):
    headers = {"X-Request-Id": "a-1", "traceparent": trace}
    hot, flask = (
        parts(client.post("/predict", data=pngs["green"], content_type=content_type, headers=headers))
        for client in clients
    )
    assert hot == flask
    assert hot[2]["predictions"][0]["label"] == "green"


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"no image", 400), (b"x" * (MAX_UPLOAD + 1), 413), (b"\x89PNG\r\n\x1a\n" + b"\0" * 30, 400)],
)
def test_errors_are_the_same(clients, body, status):
    headers = {"X-Request-Id": "a-1"}
    hot, flask = (
        parts(client.post("/predict", data=body, content_type="image/png", headers=headers)) for client in clients
    )
    assert hot == flask
    assert hot[0] == status


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/readyz?a=b"])
def test_probes_are_the_same(model, path, draining):
    event = threading.Event()
    app = make_app(model, draining=event)
    if draining:
        event.set()
    hot, flask = (
        parts(Client(application).get(path, headers={"X-Request-Id": "a-1"}))
        for application in (app.wsgi_app, app.wsgi_app._application)
    )
    assert hot == flask
    assert hot[0] == (503 if draining and path.startswith("/readyz") else 200)


def test_internal_errors_are_the_same_and_logged(clients, pngs, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("image_classifier.serving.inference.Slot.predict", fail)
    headers = {"X-Request-Id": "a-1"}
    hot, flask = (
        parts(client.post("/predict", data=pngs["red"], content_type="image/png", headers=headers))
        for client in clients
    )
    assert hot == flask
    assert hot[0] == 500
    assert caplog.text.count("request a-1 failed: POST /predict") == 2


def test_requests_are_counted_the_same(clients, pngs):
    def count():
        text = clients[1].get("/metrics").text
        return next(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith('image_classifier_requests_total{route="/predict",status="200"}')
        )

    counts = []
    for client in (clients[0], *clients):
        client.post("/predict", data=pngs["red"], content_type="image/png")
        counts.append(count())
    assert counts == [counts[0], counts[0] + 1, counts[0] + 2]


def test_other_requests_go_to_flask(clients, pngs):
    hot, _ = clients
    assert len(hot.post("/predict?top=2", data=pngs["red"]).json["predictions"][0]["top"]) == 2
    assert hot.get("/predict").status_code == 405
    assert hot.post("/predict", data=b"{}", content_type="application/json").status_code == 415
    compressed = hot.post("/predict", data=gzip.compress(pngs["red"]), headers={"Content-Encoding": "gzip"})
    assert compressed.json["predictions"][0]["label"] == "red"


@pytest.mark.parametrize("settings", [{"token": "secret"}, {"cors_origins": "https://a.example.org"}])
def test_a_server_with_a_token_or_origins_has_no_hot_path(model, settings):
    assert not isinstance(make_app(model, **settings).wsgi_app, HotPath)


def complete_request(app, data):
    """What the worker would answer in the event loop."""
    head = app.wsgi_app.parse_head(data)
    return head and app.wsgi_app.complete_request(head, data)


def test_a_complete_request_for_a_small_image_is_recognized(app, pngs):
    request = complete_request(app, predict_request(pngs["red"], "Content-Type: image/png", "X-A:b c"))
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
        "Content-Encoding: gzip",
    ],
)
def test_unusual_header_fields_are_left_to_gunicorn(app, pngs, field):
    assert complete_request(app, predict_request(pngs["red"], field)) is None


def test_incomplete_and_large_requests_are_left_to_gunicorn(app, pngs):
    request = predict_request(pngs["red"])
    for other in (
        request[:-1],
        request + b"P",
        request.replace(b"POST", b"GET"),
        request.replace(b"/predict", b"/explain"),
        request.replace(b"HTTP/1.1", b"HTTP/1.0"),
        request.replace(b"Host: a\r\n", b""),
        request.replace(b"\r\n", b"\n"),
        predict_request(large_png()),
        predict_request(pngs["red"] + bytes(MAX_UPLOAD)),
        predict_request(b"no image"),
        b"",
    ):
        assert complete_request(app, other) is None


@hypothesis.settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 200))
def test_arbitrary_bytes_cause_no_failure(app, data, start):
    request = complete_request(app, predict_request(b"\xff\xd8" + data)[start:])
    assert request is None or app.wsgi_app.respond(request).status in (200, 400, 413)


def test_calls_wait_until_the_application_is_loaded():
    may_load, responses = threading.Event(), []

    def load():
        assert may_load.wait(10)
        return lambda environ, start_response: [environ["PATH_INFO"].encode()]

    application = BackgroundApplication(load)
    caller = threading.Thread(target=lambda: responses.append(application({"PATH_INFO": "/a"}, print)))
    caller.start()
    caller.join(0.05)
    assert responses == []
    may_load.set()
    caller.join(10)
    assert responses == [[b"/a"]]
    assert sys.getswitchinterval() == pytest.approx(0.005)


@pytest.mark.slow
def test_the_hot_path_needs_no_flask():
    code = (
        "import sys, image_classifier.serving.service\n"
        "print(sys.modules.keys() & {'flask', 'jinja2', 'torch', 'mlflow'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.slow
def test_a_server_that_cannot_load_flask_ends_and_logs_the_reason(package_folder, tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/flask.py").write_text("raise ImportError('a broken installation')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    server = start(package_folder, tmp_path / "log")
    assert server.process.wait(60) == 3
    assert "a broken installation" in server.log.read_text()
