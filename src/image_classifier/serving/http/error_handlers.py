"""Flask's part of the errors: whatever goes wrong in a route is answered in the one shape."""

from flask import Flask, Response, g, request
from werkzeug.exceptions import ClientDisconnected, HTTPException, MethodNotAllowed, NotFound
from werkzeug.exceptions import RequestEntityTooLarge as TooLarge

from image_classifier.serving.http.error_responses import (
    error_body,
    error_code,
    not_found,
    refusal_of,
    retry_headers,
    too_large,
    too_many,
    too_slow,
)
from image_classifier.serving.http.uploads import form_limits


def error_response(status: int, code: str, message: str) -> Response:
    return Response(
        error_body(status, code, message), status, retry_headers(status), mimetype="application/json"
    )


def register_errors(app: Flask, max_upload: int) -> None:
    """Make the application answer every error in the one shape."""

    @app.errorhandler(Exception)
    def refused(error: Exception) -> Response:
        refusal = refusal_of(error, f"{request.method} {request.path}", g.name.id)
        return error_response(refusal.status, refusal.code, str(refusal))

    @app.errorhandler(TooLarge)
    def large_body(_: TooLarge) -> Response:
        size = request.content_length
        if size is None or size > max_upload:
            return refused(too_large(size, max_upload))
        return refused(too_many("form parts", form_limits(max_upload)["MAX_FORM_PARTS"]))

    @app.errorhandler(NotFound)
    def no_route(_: NotFound) -> Response:
        return refused(
            not_found(f"there is nothing at {request.path}; images go to POST /predict, people to /")
        )

    @app.errorhandler(MethodNotAllowed)
    def wrong_method(error: MethodNotAllowed) -> Response:
        allowed = sorted(error.valid_methods or ())
        useful = " and ".join(method for method in allowed if method not in ("HEAD", "OPTIONS"))
        answer = error_response(
            405, "method_not_allowed", f"{request.path} takes {useful}, not {request.method}"
        )
        answer.headers["Allow"] = ", ".join(allowed)
        return answer

    @app.errorhandler(ClientDisconnected)
    def cut_off(error: ClientDisconnected) -> Response:
        if isinstance(error.__context__, TimeoutError):
            return refused(too_slow())
        return error_response(400, "incomplete_body", "the request ended before its body was complete")

    @app.errorhandler(HTTPException)
    def other(error: HTTPException) -> Response:
        status = error.code or 500
        return error_response(status, error_code(status), error.description or error.name)
