"""Answers over HTTP: gunicorn, Flask and ONNX Runtime."""
