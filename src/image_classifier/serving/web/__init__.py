"""The Flask application, the page for people, and the OpenAPI document."""
