"""The Flask application: what is asked where, and what every answer carries."""

import threading
from time import perf_counter

from flask import Flask, Response, g, request

from image_classifier.package import Identity, Model
from image_classifier.serving.http.access import register_access
from image_classifier.serving.http.error_handlers import register_errors
from image_classifier.serving.http.request_body import MeteredBody
from image_classifier.serving.http.response_headers import REQUEST_ID, TRACE, RequestName
from image_classifier.serving.http.uploads import ImageRequest, form_limits
from image_classifier.serving.protocols.explain import explanation_routes
from image_classifier.serving.protocols.predict import prediction_routes
from image_classifier.serving.protocols.v1 import v1_routes
from image_classifier.serving.protocols.v2 import v2_routes
from image_classifier.serving.service import Service
from image_classifier.serving.web.openapi import openapi_routes
from image_classifier.serving.web.operation import operation_routes
from image_classifier.serving.web.page import page_routes
from image_classifier.settings import Settings


def create_app(
    settings: Settings,
    model: Model,
    identity: Identity,
    *,
    places: int = 1,
    draining: threading.Event | None = None,
) -> Flask:
    """The application that answers with `model`, which is loaded and verified: so it is ready at once.

    It works on `places` requests at a time.

    From the moment `draining` is set, /readyz answers 503 and everything else goes on.
    """
    service = Service(settings, model, identity, places=places, draining=draining)
    app = application_of(service)
    if service.has_hot_path:
        app.wsgi_app = service.hot_path(app.wsgi_app)  # type: ignore[method-assign]
    return app


def application_of(service: Service) -> Flask:
    """All the routes of a service, without its short way."""
    settings, identity, inference = service.settings, service.identity, service.inference
    app = Flask(__name__)
    app.request_class = ImageRequest
    app.config.update(form_limits(settings.max_upload))
    register_errors(app, settings.max_upload)
    _register_hooks(app, service)
    register_access(app, settings)
    for routes in (
        operation_routes(service.metrics, service.drift, identity, service.draining),
        prediction_routes(service.predictions, settings.max_upload),
        explanation_routes(settings, inference, identity),
        v1_routes(settings, inference, identity),
        v2_routes(settings, inference, identity, service.draining),
        page_routes(settings, service.package, identity, service.drift),
        openapi_routes(settings, service.package, identity),
    ):
        app.register_blueprint(routes)
    return app


def _register_hooks(app: Flask, service: Service) -> None:
    @app.before_request
    def begin() -> None:
        g.started = perf_counter()
        g.name = RequestName.of(request.headers.get(REQUEST_ID, ""), request.headers.get(TRACE, ""))
        g.body = request.environ["wsgi.input"] = MeteredBody(request.environ["wsgi.input"], service.memory)

    @app.after_request
    def finish(answer: Response) -> Response:
        answer.headers.update(service.headers.of(g.name, request.method))
        route = request.url_rule.rule if request.url_rule else "none"
        service.metrics.request(route, answer.status_code, perf_counter() - g.started)
        return answer

    @app.teardown_request
    def end(_: BaseException | None) -> None:
        g.body.release()
