"""The short way gives the answers of the long one."""

import json

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from werkzeug.test import Client

from image_classifier.serving.application import create_app
from image_classifier.serving.hot_path import HotPath
from image_classifier.serving.identity import Identity
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


def request_for(image, *headers):
    lines = ["POST /predict HTTP/1.1", "Host: a", *headers, f"Content-Length: {len(image)}", "", ""]
    return "\r\n".join(lines).encode() + image


def test_a_whole_request_for_a_small_image_is_quick(app, pngs):
    request = request_for(pngs["red"], "Content-Type: image/png")
    assert app.wsgi_app.is_idle()
    assert app.wsgi_app.is_quick(request)
    for other in (
        request[:-1],
        request + b"P",
        request.replace(b"POST", b"GET"),
        request.replace(b"/predict", b"/explain"),
        request_for(large_png()),
        request_for(b"no image"),
        b"",
    ):
        assert not app.wsgi_app.is_quick(other)


@hypothesis.settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 200))
def test_any_bytes_are_quick_or_not(app, data, start):
    request = request_for(b"\xff\xd8" + data)
    assert app.wsgi_app.is_quick(request[start:]) in (True, False)
