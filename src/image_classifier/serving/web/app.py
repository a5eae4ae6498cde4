"""The Flask application with all routes, among them those for operators."""

import threading

import orjson
from flask import Blueprint, Flask, Response
from prometheus_client import CONTENT_TYPE_LATEST

from image_classifier.package import Model, ModelIdentity
from image_classifier.serving.http import health
from image_classifier.serving.http.hot_path import HotPath
from image_classifier.serving.http.uploads import ImageRequest, form_limits
from image_classifier.serving.protocols.explain import explain_routes
from image_classifier.serving.protocols.predict import predict_routes
from image_classifier.serving.protocols.v1 import v1_routes
from image_classifier.serving.protocols.v2 import v2_routes
from image_classifier.serving.server_options import ServerOptions
from image_classifier.serving.service import Service
from image_classifier.serving.web.openapi import openapi_routes
from image_classifier.serving.web.page import page_routes
from image_classifier.serving.web.request_hooks import (
    register_access_control,
    register_error_handlers,
    register_request_context,
)


def create_app(
    options: ServerOptions, model: Model, identity: ModelIdentity, *, draining: threading.Event | None = None
) -> Flask:
    """The application that serves a loaded and verified model, one request at a time, with its hot path.

    Once `draining` is set, /readyz answers 503; everything else still works.
    """
    service = Service(options, model, identity, draining=draining)
    app = build_app(service)
    if service.has_hot_path:
        app.wsgi_app = HotPath(app.wsgi_app, service)  # type: ignore[method-assign]
    return app


def build_app(service: Service) -> Flask:
    """The application of a service, without the hot path."""
    app = Flask(__name__)
    app.request_class = ImageRequest
    app.config.update(form_limits(service.options.max_upload))
    register_error_handlers(app, service.options.max_upload)
    register_request_context(app, service)
    register_access_control(app, service.options)
    inference_routes = (predict_routes, explain_routes, v1_routes, v2_routes)
    for make_routes in (operation_routes, *inference_routes, page_routes, openapi_routes):
        app.register_blueprint(make_routes(service))
    return app


def operation_routes(service: Service) -> Blueprint:
    """/healthz, /readyz, /metrics and /drift."""
    routes = Blueprint("operation", __name__)

    @routes.get(health.LIVE_PATH)
    def live() -> dict[str, str]:
        return health.live()

    @routes.get(health.READY_PATH)
    def ready() -> dict[str, str]:
        return health.ready(service.draining)

    # The names of these endpoints are part of the OpenAPI document, from which clients are generated.
    @routes.get("/metrics", endpoint="counts")
    def metrics() -> Response:
        return Response(service.metrics.text(), content_type=CONTENT_TYPE_LATEST)

    @routes.get("/drift", endpoint="seen")
    def drift() -> Response:
        # Flask would sort the keys; the verdict should come first.
        report = orjson.dumps(service.drift.report(service.identity)) + b"\n"
        return Response(report, mimetype="application/json")

    return routes
