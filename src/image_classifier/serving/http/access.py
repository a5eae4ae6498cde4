"""Who may ask: an optional bearer token, and the web pages of other origins that a setting lists."""

import hmac

from flask import Flask, Response, request

from image_classifier.serving.http.error_handlers import error_response
from image_classifier.serving.http.response_headers import REQUEST_ID, TRACE
from image_classifier.serving.protocols.tensors import LENGTH_HEADER
from image_classifier.settings import Settings

_ASKED_HEADERS = f"Authorization, Content-Type, {LENGTH_HEADER}, {REQUEST_ID}, {TRACE}"
_TOLD_HEADERS = f"{LENGTH_HEADER}, Retry-After, X-Model-Name, X-Model-Version, {REQUEST_ID}"
_PREFLIGHT_SECONDS = "600"
_COUNTS = ("/metrics", "/drift")


def register_access(app: Flask, settings: Settings) -> None:
    """Refuse who lacks the token, where there is one, and let the listed origins read the answers.

    The page, its examples, the API's description and the probes are open; what asks the model or counts is not.
    """
    origins = {origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()}
    expected = f"Bearer {settings.token}".encode()

    @app.before_request
    def check_token() -> Response | None:
        if not settings.token or not (request.method == "POST" or request.path in _COUNTS):
            return None
        given = request.headers.get("Authorization", "").encode("latin-1", "replace")
        if hmac.compare_digest(given, expected):
            return None
        answer = error_response(
            401, "unauthorized", "this server wants a token, as Authorization: Bearer TOKEN"
        )
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    @app.after_request
    def allow_origin(answer: Response) -> Response:
        origin = request.headers.get("Origin")
        if not origins or origin is None:
            return answer
        answer.headers["Vary"] = "Origin"
        if origin in origins:
            answer.headers["Access-Control-Allow-Origin"] = origin
            answer.headers["Access-Control-Expose-Headers"] = _TOLD_HEADERS
            if request.method == "OPTIONS":
                answer.headers["Access-Control-Allow-Methods"] = "GET, POST"
                answer.headers["Access-Control-Allow-Headers"] = _ASKED_HEADERS
                answer.headers["Access-Control-Max-Age"] = _PREFLIGHT_SECONDS
        return answer
