"""Access control, CORS, error responses, request IDs and response headers of every route."""

import base64
import gzip
import io
import json
import re
import zlib

import pytest

from image_classifier.serving.http.connection import SlowClientError
from image_classifier.serving.http.response_headers import SECURITY_HEADERS
from tests.serving.apps import BROWSER, NAME, make_app, make_client

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
    assert 'id="token"' in client.get("/", headers=BROWSER).text


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
    page = client.get("/", headers={"Origin": SHOP})
    assert set(page.vary) == {"Accept", "Origin"}
    preflight = client.options("/predict", headers={"Origin": SHOP, "Access-Control-Request-Method": "POST"})
    assert preflight.headers["Access-Control-Allow-Origin"] == SHOP
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Authorization, Content-Encoding" in preflight.headers["Access-Control-Allow-Headers"]


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


INFER, PREDICT = f"/v2/models/{NAME}/infer", f"/v1/models/{NAME}:predict"


def compressed_requests(pngs):
    """A path, a content type and a body for each kind of body."""
    image = base64.b64encode(pngs["green"]).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    form = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n%s\r\n--b--\r\n' % pngs["green"]
    return [
        ("/predict", "image/png", pngs["green"]),
        ("/predict?top=4", "application/octet-stream", pngs["green"]),
        ("/predict", "multipart/form-data; boundary=b", form),
        ("/explain", "image/png", pngs["green"]),
        (PREDICT, "application/json", json.dumps({"instances": [{"b64": image}]}).encode()),
        (INFER, "application/json", json.dumps({"inputs": [{**tensor, "data": [image]}]}).encode()),
    ]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)],
)
def test_a_compressed_body_gets_the_same_response_on_every_route(client, pngs, number, encoding, compress):
    path, content_type, body = compressed_requests(pngs)[number]
    expected = client.post(path, data=body, content_type=content_type)
    response = client.post(path, data=compress(body), content_type=content_type, headers={"Content-Encoding": encoding})
    assert (expected.status_code, response.status_code) == (200, 200)
    assert without_ids(response.json) == without_ids(expected.json)
    assert "green" in response.text


def without_ids(content):
    return {name: value for name, value in content.items() if name not in ("milliseconds", "request_id")}


@pytest.mark.parametrize("number", range(6))
def test_an_unsupported_encoding_is_refused_with_those_that_are_accepted(client, pngs, number):
    path, content_type, body = compressed_requests(pngs)[number]
    response = client.post(path, data=body, content_type=content_type, headers={"Content-Encoding": "br"})
    assert (response.status_code, response.json["code"]) == (415, "unsupported_encoding")
    assert "'br' is not supported" in response.json["error"]
    assert response.headers["Accept-Encoding"] == "gzip, deflate"
    other_type = client.post("/predict", data=b"{}", content_type="application/json")
    assert (other_type.status_code, "Accept-Encoding" in other_type.headers) == (415, False)
    assert client.get("/healthz", headers={"Content-Encoding": "br"}).status_code == 200


@pytest.mark.parametrize("number", range(6))
def test_a_compressed_body_is_limited_by_its_decoded_size_and_may_not_be_damaged(model, pngs, number):
    path, content_type, body = compressed_requests(pngs)[number]
    client = make_client(model, max_upload=10_000)
    form = content_type.startswith("multipart")
    bomb = body.replace(pngs["green"], bytes(10**6)) if form else body + b" " * 10**6
    for content, status, code in (
        (gzip.compress(bomb), 413, "body_too_large"),
        (gzip.compress(body)[:-3], 400, "incomplete_body"),
        (b"x" + gzip.compress(body), 400, "invalid_encoding"),
        (body, 400, "invalid_encoding"),
    ):
        response = client.post(path, data=content, content_type=content_type, headers={"Content-Encoding": "gzip"})
        assert (response.status_code, response.json["code"]) == (status, code)


def test_the_length_of_the_json_applies_to_the_decoded_body(client, pngs):
    parameters = {"binary_data_size": 4 + len(pngs["white"])}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    body = head + len(pngs["white"]).to_bytes(4, "little") + pngs["white"]
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Encoding": "deflate"}
    response = client.post(INFER, data=zlib.compress(body), headers=headers)
    assert response.json["outputs"][1]["data"] == ["white"]


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
