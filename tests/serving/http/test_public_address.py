"""The address that /openapi.json and /docs give is the one that the sender used."""

import pytest
from openapi_spec_validator import validate

from image_classifier.package.identity import Identity
from image_classifier.serving.http.public_address import public_address
from image_classifier.serving.web.app import create_app
from image_classifier.settings import Settings

KNATIVE = "flowers-predictor.team.example.org"


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"Host": KNATIVE}, f"http://{KNATIVE}"),
        ({"Host": "127.0.0.1:8080"}, "http://127.0.0.1:8080"),
        ({"Host": "[::1]:8080"}, "http://[::1]:8080"),
        ({"Host": KNATIVE, "X-Forwarded-Proto": "https"}, f"https://{KNATIVE}"),
        ({"Host": KNATIVE, "X-Forwarded-Proto": "HTTPS, http"}, f"https://{KNATIVE}"),
        ({"Host": KNATIVE, "X-Forwarded-Proto": "javascript"}, f"http://{KNATIVE}"),
        ({"Host": "10.0.0.7:8012", "X-Forwarded-Host": KNATIVE}, f"http://{KNATIVE}"),
        ({"Host": "a", "X-Forwarded-Host": "b.org, c.org", "X-Forwarded-Proto": "https"}, "https://b.org"),
        ({}, "/"),
        ({"Host": ""}, "/"),
        ({"Host": 'x"><script>'}, "/"),
        ({"Host": "user@example.org"}, "/"),
        ({"Host": "example.org/path"}, "/"),
        ({"Host": KNATIVE, "X-Forwarded-Host": "evil.org/?"}, "/"),
    ],
)
def test_the_address_is_the_senders_or_none(headers, address):
    assert public_address(headers, "http") == address


@pytest.fixture(scope="module")
def client(model):
    return create_app(Settings(), model, Identity.read(model.package, "colours")).test_client()


def test_the_document_names_the_host_that_knative_was_asked_by(client):
    for headers, address in (
        ({"Host": KNATIVE}, f"http://{KNATIVE}"),
        ({"Host": KNATIVE, "X-Forwarded-Proto": "https"}, f"https://{KNATIVE}"),
        ({"Host": "other.example.org"}, "http://other.example.org"),
    ):
        document = client.get("/openapi.json", headers=headers).json
        validate(document)
        # TAP's API registration reads OpenAPI 2.0 and 3.0.
        assert document["openapi"].startswith("3.0.")
        assert document["servers"] == [{"url": address}]


def test_the_page_shows_commands_for_that_host(client):
    page = client.get("/docs", headers={"Host": KNATIVE, "X-Forwarded-Proto": "https"}).text
    assert f"curl --data-binary @photo.jpg https://{KNATIVE}/predict" in page


def test_a_portal_of_a_listed_origin_may_try_it_out(model):
    settings = Settings(cors_origins="https://tap-gui.example.org")
    asked = create_app(settings, model, Identity.read(model.package, "colours")).test_client()
    allowed = asked.options("/predict", headers={"Origin": "https://tap-gui.example.org"})
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://tap-gui.example.org"
    assert "POST" in allowed.headers["Access-Control-Allow-Methods"]
    other = asked.options("/predict", headers={"Origin": "https://elsewhere.example.org"})
    assert "Access-Control-Allow-Origin" not in other.headers


def test_a_real_server_behind_a_proxy_that_ends_tls_says_https(server):
    answer = server.ask("GET", "/openapi.json", Host=KNATIVE, X_Forwarded_Proto="https")
    assert answer.json["servers"] == [{"url": f"https://{KNATIVE}"}]
