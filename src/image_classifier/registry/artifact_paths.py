"""Where the records of a version lie, among its run's artifacts or beside its model, and where MLflow shows them."""

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

# Beside the model.
BILL_OF_MATERIALS = "bom.cdx.json"
PROVENANCE = "provenance.json"
SIGNED_PROVENANCE = "provenance.sigstore.json"
SIGNATURE = "model.sig"
SIGNED_BY = "signed_by"
"""Tag of a version that has a signature: SHA-256 of the public key, in PEM, that verifies it."""


def page_of_run(server: str, experiment_id: str, run_id: str, path: str = "") -> str:
    """Where a browser shows a run of the MLflow server, or the artifact `path` of it; without credentials."""
    parts = urlsplit(server)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    page = f"{shown.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{page}/artifacts/{path}" if path else page
