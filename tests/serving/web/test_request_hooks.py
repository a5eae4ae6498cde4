"""Access control, CORS, error responses, request IDs and response headers of every route."""

import io
import re

import pytest

from image_classifier.serving.http.connection import SlowClientError
from image_classifier.serving.http.response_headers import SECURITY_HEADERS
from tests.serving.apps import NAME, make_app, make_client

SHOP = "https://shop.example.org"
SERVER_IMAGE = "registry.example.org/server@sha256:12"


@pytest.fixture(scope="module")
def client(model):
    return make_client(model, image=SERVER_IMAGE)


@pytest.mark.parametrize("header", [None, "Bearer wrong", "secret", "Bearer secret ", "Bearer sécret"])
def test_requests_without_the_token_are_rejected(model, pngs, header):
    client = make_client(model, token="secret")
    headers = {"Authorization": header} if header else {}
    for method, path in [
        ("POST", "/predict"),
        ("POST", "/explain"),
        ("GET", "/metrics"),
        ("POST", "/v2/models/x/infer"),
    ]:
        response = client.open(path, method=method, data=pngs["red"], headers=headers)
        assert (response.status_code, response.json["code"]) == (401, "unauthorized")
        assert response.headers["WWW-Authenticate"] == "Bearer"


def test_the_token_grants_access_and_public_routes_need_none(model, pngs):
    client = make_client(model, token="secret")
    response = client.post("/predict", data=pngs["red"], headers={"Authorization": "Bearer secret"})
    assert response.json["predictions"][0]["label"] == "red"
    for path in ("/healthz", "/readyz", "/v2/health/ready", "/", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert "bearer" in client.get("/openapi.json").text
    assert 'id="token"' in client.get("/").text


def test_only_listed_origins_may_read_responses(model, pngs):
    client = make_client(model, cors_origins=f"{SHOP}, https://other.example.org")
    response = client.post("/predict", data=pngs["red"], headers={"Origin": SHOP})
    assert response.headers["Access-Control-Allow-Origin"] == SHOP
    assert "Access-Control-Allow-Credentials" not in response.headers
    assert response.headers["Vary"] == "Origin"
    unlisted = {"Origin": "https://evil.example.org"}
    for method in ("POST", "OPTIONS"):
        response = client.open("/predict", method=method, data=pngs["red"], headers=unlisted)
        assert "Access-Control-Allow-Origin" not in response.headers
    preflight = client.options("/predict", headers={"Origin": SHOP, "Access-Control-Request-Method": "POST"})
    assert preflight.headers["Access-Control-Allow-Origin"] == SHOP
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]


def test_without_listed_origins_there_are_no_cors_headers(client, pngs):
    response = client.post("/predict", data=pngs["red"], headers={"Origin": SHOP})
    assert not [name for name, _ in response.headers if name.startswith("Access-Control")]


class BrokenBody:
    """A body whose client stops sending."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, size: int = -1) -> bytes:
        raise self.error


@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=b"])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(SlowClientError(), 408, "request_too_slow"), (OSError("gone"), 400, "incomplete_body")],
)
def test_a_body_that_does_not_arrive_is_the_clients_error(client, content_type, error, status, code):
    body = {"wsgi.input": BrokenBody(error), "CONTENT_LENGTH": "500", "wsgi.input_terminated": True}
    response = client.post("/predict", content_type=content_type, environ_overrides=body)
    assert (response.status_code, response.json["code"]) == (status, code)


def test_a_body_shorter_than_stated_is_rejected_with_both_lengths(client):
    body = {"wsgi.input": io.BytesIO(b"ab"), "CONTENT_LENGTH": "5"}
    response = client.post("/predict", content_type="image/png", environ_overrides=body)
    assert response.status_code == 400
    assert "ended after 2 of 5 bytes" in response.json["error"]


def test_an_internal_error_is_logged_under_the_request_id_and_reveals_nothing(model, caplog):
    app = make_app(model)
    app.add_url_rule("/broken", view_func=lambda: 1 / 0)
    response = app.test_client().get("/broken", headers={"X-Request-Id": "abc-1"})
    assert response.status_code == 500
    assert response.json["code"] == "internal_error"
    assert "abc-1" in response.json["error"]
    assert "division" not in response.text
    assert "ZeroDivisionError" in caplog.text
    assert "request abc-1 failed: GET /broken" in caplog.text


def test_every_response_identifies_the_model_and_the_server(client, model, pngs):
    for response in (client.post("/predict", data=pngs["red"]), client.get("/nothing"), client.get("/")):
        assert response.headers["X-Model-Name"] == NAME
        assert response.headers["X-Model-Version"] == "unregistered"
        assert response.headers["X-Model-Digest"] == model.package.digest
        assert response.headers["X-Source-Revision"] == "abc123"
        assert response.headers["X-Data-Digest"] == "d" * 64
        assert response.headers["X-Server-Image"] == SERVER_IMAGE
        assert dict(response.headers).items() >= SECURITY_HEADERS.items()
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("request_id", ["7f3a", "a.b:c/d+e=@_-", "x" * 128])
def test_a_valid_request_id_is_kept(client, pngs, request_id):
    response = client.post("/predict", data=pngs["red"], headers={"X-Request-Id": request_id})
    assert response.headers["X-Request-Id"] == response.json["request_id"] == request_id


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, 'a"b', "ä"])
def test_an_invalid_request_id_is_replaced(client, request_id):
    headers = client.get("/healthz", headers={"X-Request-Id": request_id}).headers
    assert re.fullmatch("[0-9a-f]{32}", headers["X-Request-Id"])
