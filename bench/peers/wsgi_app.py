"""A bare WSGI application, for granian."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from package_model import PackageModel

model = PackageModel()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = json.dumps(model.predict(environ["wsgi.input"].read())).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
