"""The service's description of itself is valid, whole, and true."""

import re

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import validate

from image_classifier.package.identity import Identity
from image_classifier.serving.web.app import create_app
from image_classifier.settings import Settings


@pytest.fixture(scope="module")
def app(model):
    return create_app(Settings(max_upload=100_000), model, Identity.read(model.package, "colours"))


@pytest.fixture(scope="module")
def document(app):
    return app.test_client().get("/openapi.json").json


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
    names = [
        operation["operationId"] for methods in document["paths"].values() for operation in methods.values()
    ]
    assert len(names) == len(set(names))


def test_what_a_reader_looks_for_comes_first(document):
    assert next(iter(document["paths"])) == "/predict"
    used = {
        tag
        for methods in document["paths"].values()
        for operation in methods.values()
        for tag in operation["tags"]
    }
    tags = [tag["name"] for tag in document["tags"]]
    assert tags[0] == "Ask"
    assert set(tags) == used


def test_the_page_for_people_tells_the_same_and_loads_nothing_from_elsewhere(app, document):
    page = app.test_client().get("/docs").text
    for path in document["paths"]:
        assert path in page
    assert "curl --data-binary @photo.jpg http://localhost/predict" in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert not re.search(r"\son\w+=|style=|<style|<script", page)


def test_the_service_keeps_what_the_document_promises(app):
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    # OpenAPI cannot say that not every binary is an image: 400 is a true answer to those.
    images = schemathesis.checks.CHECKS.get_one("positive_data_acceptance")
    asked = []

    def ask(operation):
        @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def asks(case):
            case.call_and_validate(excluded_checks=[images])

        asks()
        asked.append(operation.label)

    for found in schema.get_all_operations():
        ask(found.ok())
    described = {
        f"{method.upper()} {path}" for path, ways in schema.raw_schema["paths"].items() for method in ways
    }
    assert set(asked) == described - {"GET /openapi.json"}
