"""gunicorn, its worker, request bodies, limits, headers and access."""
