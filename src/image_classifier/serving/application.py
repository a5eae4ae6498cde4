"""The Flask application: what is asked where, and what every answer carries."""

import re
import threading
import uuid
from time import perf_counter

from flask import Flask, Response, g, request

from image_classifier.package import Model
from image_classifier.serving.access import register_access
from image_classifier.serving.admission import Admission, MemoryMeter
from image_classifier.serving.errors import register_errors
from image_classifier.serving.explanation import explanation_routes
from image_classifier.serving.health import health_routes
from image_classifier.serving.identity import Identity, printable
from image_classifier.serving.inference import Inference
from image_classifier.serving.kserve_v1 import v1_routes
from image_classifier.serving.metrics import Metrics
from image_classifier.serving.open_inference import v2_routes
from image_classifier.serving.openapi import openapi_routes
from image_classifier.serving.page import page_routes
from image_classifier.serving.prediction import prediction_routes
from image_classifier.serving.uploads import ImageRequest, MeteredBody, form_limits
from image_classifier.settings import Settings

REQUEST_ID = "X-Request-Id"
TRACE = "traceparent"
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_BODIES_IN_MEMORY = 4
"""All request bodies together are at most so many times the largest one."""
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# https://www.w3.org/TR/trace-context/: version, trace id, parent id, flags.
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def create_app(
    settings: Settings, model: Model, identity: Identity, *, draining: threading.Event | None = None
) -> Flask:
    """The application that answers with `model`, which is loaded and verified: so it is ready at once.

    From the moment `draining` is set, /readyz answers 503 and everything else goes on.
    """
    draining = draining or threading.Event()
    metrics = Metrics(identity)
    admission = Admission(
        places=settings.threads,
        queue=settings.queue,
        patience=settings.queue_timeout,
        report=metrics.inside,
    )
    inference = Inference(model, admission, metrics, settings.max_pixels)
    app = Flask(__name__)
    app.request_class = ImageRequest
    app.config.update(form_limits(settings.max_upload))
    register_errors(app, settings.max_upload)
    _register_hooks(app, settings, identity, metrics)
    register_access(app, settings)
    for routes in (
        health_routes(draining),
        prediction_routes(settings, inference, identity),
        explanation_routes(settings, inference, identity),
        v1_routes(settings, inference, identity),
        v2_routes(settings, inference, identity, draining),
        page_routes(settings, model.package, identity),
        openapi_routes(settings, model.package, identity),
        metrics.routes(),
    ):
        app.register_blueprint(routes)
    return app


def _register_hooks(app: Flask, settings: Settings, identity: Identity, metrics: Metrics) -> None:
    carried = {**SECURITY_HEADERS, **identity.headers()}
    if settings.image:
        carried["X-Server-Image"] = printable(settings.image)
    memory = MemoryMeter(_BODIES_IN_MEMORY * settings.max_upload)

    @app.before_request
    def begin() -> None:
        g.started = perf_counter()
        trace = _TRACE.fullmatch(request.headers.get(TRACE, ""))
        given = request.headers.get(REQUEST_ID, "")
        g.trace = trace and trace[0]
        g.request_id = given if _SANE_ID.fullmatch(given) else trace[1] if trace else uuid.uuid4().hex
        g.body = request.environ["wsgi.input"] = MeteredBody(request.environ["wsgi.input"], memory)

    @app.after_request
    def add_headers(answer: Response) -> Response:
        for header, value in carried.items():
            answer.headers[header] = value
        answer.headers[REQUEST_ID] = g.request_id
        if g.trace:
            answer.headers[TRACE] = g.trace
        # What is cached must be asked for again: another version may answer by then.
        answer.headers["Cache-Control"] = "no-cache" if request.method == "GET" else "no-store"
        route = request.url_rule.rule if request.url_rule else "none"
        metrics.request(route, answer.status_code, perf_counter() - g.started)
        return answer

    @app.teardown_request
    def end(_: BaseException | None) -> None:
        g.body.release()
