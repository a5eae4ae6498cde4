"""The Flask application, the web page, and the OpenAPI document."""
