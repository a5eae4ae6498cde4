"""gunicorn and its worker, request bodies, limits, response headers, errors in JSON."""
