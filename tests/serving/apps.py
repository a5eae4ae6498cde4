"""Applications for tests, with the defaults of the settings."""

import threading
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from image_classifier.package.identity import ModelIdentity
from image_classifier.package.model import Model
from image_classifier.serving.server_options import ServerOptions
from image_classifier.serving.web.app import create_app
from image_classifier.settings import Settings, pick

NAME = "colors"
"""Name of the model, unless a test gives an identity."""
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}
"""The header with which browsers request pages."""


def server_options(**settings: Any) -> ServerOptions:
    return pick(Settings(**settings), ServerOptions)


def make_app(
    model: Model, *, identity: ModelIdentity | None = None, draining: threading.Event | None = None, **settings: Any
) -> Flask:
    identity = identity or ModelIdentity.read(model.package, NAME)
    return create_app(server_options(**settings), model, identity, draining=draining)


def make_client(model: Model, **options: Any) -> FlaskClient:
    return make_app(model, **options).test_client()
