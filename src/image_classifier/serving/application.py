"""The Flask application: what is asked where, and what every answer carries."""

import threading
from time import perf_counter

from flask import Flask, Response, g, request

from image_classifier.package import Model
from image_classifier.serving.access import register_access
from image_classifier.serving.admission import Admission, MemoryMeter
from image_classifier.serving.errors import register_errors
from image_classifier.serving.explanation import explanation_routes
from image_classifier.serving.headers import REQUEST_ID, TRACE, AnswerHeaders, RequestName
from image_classifier.serving.health import health_routes
from image_classifier.serving.hot_path import HotPath
from image_classifier.serving.identity import Identity
from image_classifier.serving.inference import Inference
from image_classifier.serving.kserve_v1 import v1_routes
from image_classifier.serving.metrics import Metrics
from image_classifier.serving.open_inference import v2_routes
from image_classifier.serving.openapi import openapi_routes
from image_classifier.serving.page import page_routes
from image_classifier.serving.prediction import Predictions, prediction_routes
from image_classifier.serving.uploads import ImageRequest, MeteredBody, form_limits
from image_classifier.settings import Settings

_BODIES_IN_MEMORY = 4
"""All request bodies together are at most so many times the largest one."""


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
    draining = draining or threading.Event()
    metrics = Metrics(identity)
    admission = Admission(
        places=places,
        queue=settings.queue,
        patience=settings.queue_timeout,
        report=metrics.inside,
    )
    headers = AnswerHeaders(settings, identity)
    memory = MemoryMeter(_BODIES_IN_MEMORY * settings.max_upload)
    inference = Inference(model, admission, metrics, settings.max_pixels)
    predictions = Predictions(inference, identity, settings.top)
    app = Flask(__name__)
    app.request_class = ImageRequest
    app.config.update(form_limits(settings.max_upload))
    register_errors(app, settings.max_upload)
    _register_hooks(app, headers, memory, metrics)
    register_access(app, settings)
    for routes in (
        health_routes(draining),
        prediction_routes(predictions, settings.max_upload),
        explanation_routes(settings, inference, identity),
        v1_routes(settings, inference, identity),
        v2_routes(settings, inference, identity, draining),
        page_routes(settings, model.package, identity),
        openapi_routes(settings, model.package, identity),
        metrics.routes(),
    ):
        app.register_blueprint(routes)
    if not (settings.token or settings.cors_origins):
        app.wsgi_app = HotPath(  # type: ignore[method-assign]
            app.wsgi_app,
            predictions=predictions,
            admission=admission,
            headers=headers,
            metrics=metrics,
            memory=memory,
            max_upload=settings.max_upload,
        )
    return app


def _register_hooks(app: Flask, headers: AnswerHeaders, memory: MemoryMeter, metrics: Metrics) -> None:
    @app.before_request
    def begin() -> None:
        g.started = perf_counter()
        g.name = RequestName.of(request.headers.get(REQUEST_ID, ""), request.headers.get(TRACE, ""))
        g.body = request.environ["wsgi.input"] = MeteredBody(request.environ["wsgi.input"], memory)

    @app.after_request
    def finish(answer: Response) -> Response:
        answer.headers.update(headers.of(g.name, request.method))
        route = request.url_rule.rule if request.url_rule else "none"
        metrics.request(route, answer.status_code, perf_counter() - g.started)
        return answer

    @app.teardown_request
    def end(_: BaseException | None) -> None:
        g.body.release()
