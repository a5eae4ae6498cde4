"""The Flask application: routes, what every answer carries, liveness and readiness."""

import re
import threading
import uuid

from flask import Flask, Response, g, request

from image_classifier.package import Model
from image_classifier.serving.errors import error_response, register_errors
from image_classifier.serving.identity import Identity, printable
from image_classifier.serving.page import page_routes
from image_classifier.serving.prediction import prediction_routes
from image_classifier.serving.uploads import ImageRequest, form_limits
from image_classifier.settings import Settings

REQUEST_ID = "X-Request-Id"
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
RETRY_SECONDS = 1
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def create_app(
    settings: Settings, model: Model, identity: Identity, *, draining: threading.Event | None = None
) -> Flask:
    """The application that answers with `model`, which is loaded and verified: so it is ready at once.

    From the moment `draining` is set, /readyz answers 503 and everything else goes on.
    """
    app = Flask(__name__)
    app.request_class = ImageRequest
    app.config.update(form_limits(settings.max_upload))
    register_errors(app, settings.max_upload)
    _register_hooks(app, settings, identity)
    _register_health(app, draining or threading.Event())
    app.register_blueprint(prediction_routes(settings, model, identity))
    app.register_blueprint(page_routes(settings, model, identity))
    return app


def _register_hooks(app: Flask, settings: Settings, identity: Identity) -> None:
    carried = {**SECURITY_HEADERS, **identity.headers()}
    if settings.image:
        carried["X-Server-Image"] = printable(settings.image)

    @app.before_request
    def name_request() -> None:
        given = request.headers.get(REQUEST_ID, "")
        g.request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex

    @app.after_request
    def add_headers(answer: Response) -> Response:
        for header, value in carried.items():
            answer.headers[header] = value
        answer.headers[REQUEST_ID] = g.request_id
        # What is cached must be asked for again: another version may answer by then.
        answer.headers["Cache-Control"] = "no-cache" if request.method == "GET" else "no-store"
        return answer


def _register_health(app: Flask, draining: threading.Event) -> None:
    @app.get("/healthz")
    def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/readyz")
    def ready() -> Response | dict[str, str]:
        if draining.is_set():
            answer = error_response(503, "draining", "the server is stopping; another one answers")
            answer.headers["Retry-After"] = str(RETRY_SECONDS)
            return answer
        return {"status": "ready"}
