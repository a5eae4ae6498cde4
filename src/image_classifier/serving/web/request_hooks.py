"""Flask hooks around every route: request ID, response headers, metrics, access control and error responses."""

import hmac
from time import perf_counter

from flask import Flask, Response, g, request
from werkzeug.exceptions import (
    ClientDisconnected,
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge as TooLarge,
)

from image_classifier.serving.http.error_responses import (
    as_request_error,
    error_body,
    error_code,
    error_headers,
    not_found,
    too_large,
    too_many,
    too_slow,
)
from image_classifier.serving.http.request_body import MeteredBody, decode_body
from image_classifier.serving.http.response_headers import REQUEST_ID, TRACE, RequestIds
from image_classifier.serving.http.uploads import form_limits
from image_classifier.serving.protocols.tensors import LENGTH_HEADER
from image_classifier.serving.server_options import ServerOptions
from image_classifier.serving.service import Service

_CORS_REQUEST_HEADERS = f"Authorization, Content-Encoding, Content-Type, {LENGTH_HEADER}, {REQUEST_ID}, {TRACE}"
_CORS_RESPONSE_HEADERS = f"{LENGTH_HEADER}, Retry-After, X-Model-Name, X-Model-Version, {REQUEST_ID}"
_PREFLIGHT_SECONDS = "600"
_PROTECTED_PATHS = ("/metrics", "/drift")


def register_request_context(app: Flask, service: Service) -> None:
    """Start and finish each request: request ID, memory budget, response headers, metrics."""

    @app.before_request
    def begin() -> None:
        g.started = perf_counter()
        g.ids = RequestIds.of(request.headers.get(REQUEST_ID, ""), request.headers.get(TRACE, ""))
        body = decode_body(request.environ, service.options.max_upload)
        g.body = request.environ["wsgi.input"] = MeteredBody(body, service.memory)

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers.update(service.headers.of(g.ids, request.method))
        route = request.url_rule.rule if request.url_rule else "none"
        service.metrics.request(route, response.status_code, perf_counter() - g.started)
        return response

    @app.teardown_request
    def release(_: BaseException | None) -> None:
        g.body.release()


def register_access_control(app: Flask, options: ServerOptions) -> None:
    """Check the bearer token, if one is set, and add CORS headers for the listed origins.

    The token protects inference, metrics and drift. The page, its examples, the API document and the probes are public.
    """
    origins = {origin.strip() for origin in options.cors_origins.split(",") if origin.strip()}
    expected = f"Bearer {options.token}".encode()

    @app.before_request
    def check_token() -> Response | None:
        if not options.token or not (request.method == "POST" or request.path in _PROTECTED_PATHS):
            return None
        authorization = request.headers.get("Authorization", "").encode("latin-1", "replace")
        if hmac.compare_digest(authorization, expected):
            return None
        response = error_response(
            401, "unauthorized", "authentication required: send the header Authorization: Bearer TOKEN"
        )
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    @app.after_request
    def allow_origin(response: Response) -> Response:
        origin = request.headers.get("Origin")
        if not origins or origin is None:
            return response
        response.vary.add("Origin")
        if origin in origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _CORS_RESPONSE_HEADERS
            if request.method == "OPTIONS":
                response.headers["Access-Control-Allow-Methods"] = "GET, POST"
                response.headers["Access-Control-Allow-Headers"] = _CORS_REQUEST_HEADERS
                response.headers["Access-Control-Max-Age"] = _PREFLIGHT_SECONDS
        return response


def register_error_handlers(app: Flask, max_upload: int) -> None:
    """Return every error as JSON."""

    @app.errorhandler(Exception)
    def any_error(exception: Exception) -> Response:
        error = as_request_error(exception, f"{request.method} {request.path}", g.ids.request_id)
        return error_response(error.status, error.code, str(error))

    @app.errorhandler(TooLarge)
    def large_body(_: TooLarge) -> Response:
        size = request.content_length
        if size is None or size > max_upload:
            return any_error(too_large(size, max_upload))
        return any_error(too_many("form parts", form_limits(max_upload)["MAX_FORM_PARTS"]))

    @app.errorhandler(NotFound)
    def unknown_path(_: NotFound) -> Response:
        return any_error(
            not_found(f"{request.path} does not exist; send images to POST /predict, or open / in a browser")
        )

    @app.errorhandler(MethodNotAllowed)
    def wrong_method(exception: MethodNotAllowed) -> Response:
        allowed = sorted(exception.valid_methods or ())
        useful = " and ".join(method for method in allowed if method not in ("HEAD", "OPTIONS"))
        response = error_response(405, "method_not_allowed", f"{request.path} supports {useful}, not {request.method}")
        response.headers["Allow"] = ", ".join(allowed)
        return response

    @app.errorhandler(ClientDisconnected)
    def incomplete_body(exception: ClientDisconnected) -> Response:
        if isinstance(exception.__context__, TimeoutError):
            return any_error(too_slow())
        return error_response(400, "incomplete_body", "the request ended before its body was complete")

    @app.errorhandler(HTTPException)
    def http_error(exception: HTTPException) -> Response:
        status = exception.code or 500
        return error_response(status, error_code(status), exception.description or exception.name)


def error_response(status: int, code: str, message: str) -> Response:
    return Response(error_body(status, code, message), status, error_headers(status, code), mimetype="application/json")
