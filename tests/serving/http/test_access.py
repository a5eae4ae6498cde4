"""Tokens and origins."""

import pytest

from image_classifier.package.identity import Identity
from image_classifier.serving.web.app import create_app
from image_classifier.settings import Settings

SHOP = "https://shop.example.org"


def client_of(model, **settings):
    return create_app(Settings(**settings), model, Identity.read(model.package, "colours")).test_client()


@pytest.mark.parametrize("given", [None, "Bearer wrong", "secret", "Bearer secret ", "Bearer sécret"])
def test_without_the_token_nobody_asks(model, pngs, given):
    client = client_of(model, token="secret")
    headers = {"Authorization": given} if given else {}
    for method, path in [
        ("POST", "/predict"),
        ("POST", "/explain"),
        ("GET", "/metrics"),
        ("POST", "/v2/models/x/infer"),
    ]:
        answer = client.open(path, method=method, data=pngs["red"], headers=headers)
        assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_with_the_token_one_asks_and_probes_need_none(model, pngs):
    client = client_of(model, token="secret")
    asked = client.post("/predict", data=pngs["red"], headers={"Authorization": "Bearer secret"})
    assert asked.json["predictions"][0]["label"] == "red"
    for path in ("/healthz", "/readyz", "/v2/health/ready", "/", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert "bearer" in client.get("/openapi.json").text
    assert 'id="token"' in client.get("/").text


def test_only_listed_origins_may_read_answers(model, pngs):
    client = client_of(model, cors_origins=f"{SHOP}, https://other.example.org")
    answer = client.post("/predict", data=pngs["red"], headers={"Origin": SHOP})
    assert answer.headers["Access-Control-Allow-Origin"] == SHOP
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert answer.headers["Vary"] == "Origin"
    refused = client.post("/predict", data=pngs["red"], headers={"Origin": "https://evil.example.org"})
    assert "Access-Control-Allow-Origin" not in refused.headers
    asked_before = client.options(
        "/predict", headers={"Origin": SHOP, "Access-Control-Request-Method": "POST"}
    )
    assert "POST" in asked_before.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in asked_before.headers["Access-Control-Allow-Headers"]


def test_without_a_list_no_origin_may(model, pngs):
    answer = client_of(model).post("/predict", data=pngs["red"], headers={"Origin": SHOP})
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
