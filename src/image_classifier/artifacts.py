"""Where the records of a version lie among its run's artifacts, and where MLflow shows them."""

from urllib.parse import urlsplit

EVALUATION = "evaluation/evaluation.json"
HELD_OUT = "evaluation/held-out.json"
PICTURES = "evaluation/pictures.json"
LEARNING_CURVE = "learning-curve.png"
TUNING_COURSE = "tuning.png"
TUNING_SUMMARY = "tuning.txt"
DRIFT = "drift/record.json"
VERDICT = "gate/verdict.json"
REPORT = "report.html"


def page_of_run(server: str, experiment_id: str, run_id: str, path: str = "") -> str:
    """Where a browser shows a run of the MLflow server, or the artifact `path` of it; without credentials."""
    parts = urlsplit(server)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    page = f"{shown.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{page}/artifacts/{path}" if path else page
