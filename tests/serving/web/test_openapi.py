"""The OpenAPI document is valid, complete and correct, and names the URL that the client used."""

import re

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import validate

from image_classifier.serving.web.openapi import public_url
from tests.serving.apps import make_app

KNATIVE = "flowers-predictor.team.example.org"


@pytest.fixture(scope="module")
def app(model):
    return make_app(model, max_upload=100_000)


@pytest.fixture(scope="module")
def client(app):
    return app.test_client()


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json


def test_the_document_is_valid_openapi_3_0_3(document):
    assert document["openapi"] == "3.0.3"
    validate(document)


def test_every_route_is_described_and_named_once(app, document):
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert described == routes
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))


def test_the_most_important_path_and_tag_come_first(document):
    assert next(iter(document["paths"])) == "/predict"
    used = {
        tag for methods in document["paths"].values() for operation in methods.values() for tag in operation["tags"]
    }
    tags = [tag["name"] for tag in document["tags"]]
    assert tags[0] == "Prediction"
    assert set(tags) == used


def test_the_page_has_every_path_and_loads_nothing_from_other_hosts(client, document):
    page = client.get("/docs").text
    for path in document["paths"]:
        assert path in page
    assert "curl --data-binary @photo.jpg http://localhost/predict" in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert not re.search(r"\son\w+=|style=|<style|<script", page)


@pytest.mark.slow
def test_responses_match_the_document(app):
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    # OpenAPI cannot express that some bytes are not an image, for which 400 is correct.
    images = schemathesis.checks.CHECKS.get_one("positive_data_acceptance")
    checked = []

    def check(operation):
        @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def call(case):
            case.call_and_validate(excluded_checks=[images])

        call()
        checked.append(operation.label)

    for result in schema.get_all_operations():
        check(result.ok())
    described = {
        f"{method.upper()} {path}" for path, methods in schema.raw_schema["paths"].items() for method in methods
    }
    assert set(checked) == described - {"GET /openapi.json"}


@pytest.mark.parametrize(
    ("headers", "url"),
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
def test_the_public_url_is_the_clients_or_relative(headers, url):
    assert public_url(headers, "http") == url


def test_the_document_and_the_page_name_the_host_that_the_client_used(client):
    for headers, url in (
        ({"Host": KNATIVE}, f"http://{KNATIVE}"),
        ({"Host": KNATIVE, "X-Forwarded-Proto": "https"}, f"https://{KNATIVE}"),
        ({"Host": "other.example.org"}, "http://other.example.org"),
    ):
        document = client.get("/openapi.json", headers=headers).json
        validate(document)
        # TAP's API registration reads OpenAPI 2.0 and 3.0.
        assert document["openapi"].startswith("3.0.")
        assert document["servers"] == [{"url": url}]
        page = client.get("/docs", headers=headers).text
        assert f"curl --data-binary @photo.jpg {url}/predict" in page


@pytest.mark.slow
def test_a_server_behind_a_proxy_that_terminates_tls_has_an_https_url(server):
    response = server.request("GET", "/openapi.json", Host=KNATIVE, X_Forwarded_Proto="https")
    assert response.json["servers"] == [{"url": f"https://{KNATIVE}"}]
