"""Paths of a version's records, artifacts of its run and files next to its model; and the address of their web page.

Also read by the storage initializer, which starts with every pod: this module imports neither MLflow nor NumPy.
"""

from datetime import datetime
from urllib.parse import urlsplit

EVALUATION = "evaluation/evaluation.json"
HELD_OUT = "evaluation/held-out.json"
PICTURES = "evaluation/pictures.json"
TRAINING_IMAGES = "data/training-images.txt"
"""First 64 bits of the SHA-256 of each image of the training part, in hexadecimal, one a line."""
LEARNING_CURVE = "learning-curve.png"
TUNING_HISTORY = "tuning-history.png"
TUNING_IMPORTANCES = "tuning-importances.png"
TUNING_SUMMARY = "tuning.txt"
DRIFT = "drift/record.json"
VERDICT = "gate/verdict.json"
REPORT = "report.html"

# Next to the model.
BILL_OF_MATERIALS = "bom.cdx.json"
PROVENANCE = "provenance.json"
SIGNED_PROVENANCE = "provenance.sigstore.json"
SIGNATURE = "model.sig"
SIGNED_BY = "signed_by"
"""Tag of a signed version: SHA-256 of the public key (PEM) that verifies it."""


def judged_later(time: datetime) -> tuple[str, str]:
    """Paths of the verdict and the report of a judgement at `time` of a version that had served before."""
    folder = f"gate/{time:%Y%m%dT%H%M%S%fZ}"
    return f"{folder}/verdict.json", f"{folder}/report.html"


def page_of_run(server: str, experiment_id: str, run_id: str, path: str = "") -> str:
    """Web page of a run on an MLflow server, or of its artifact `path`; without credentials."""
    parts = urlsplit(server)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    page = f"{shown.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{page}/artifacts/{path}" if path else page
