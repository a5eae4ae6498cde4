"""The results of a step, as Tekton reads them: one file for each result."""

from collections.abc import Mapping
from pathlib import Path

from image_classifier.settings import ENVIRONMENT_PREFIX
from image_classifier.text import clip

MAX_REASON_CHARACTERS = 300  # Tekton limits all results of a task to 4,096 bytes together


def write_results(folder: str, results: Mapping[str, str]) -> None:
    """Write each result, without a newline, to the file of its name in `folder`; "" writes none.

    A reason is cut to MAX_REASON_CHARACTERS.
    """
    if folder:
        for name, value in results.items():
            text = clip(value, MAX_REASON_CHARACTERS) if name == "reason" else value
            (Path(folder) / name).write_text(text, encoding="utf-8")


def write_failure(environment: Mapping[str, str], reason: str) -> None:
    """Write why a step failed as its results, so that the reason is shown with the outcome of the step.

    Reads the folder from the environment, as a wrong setting may be the failure.
    """
    write_results(environment.get(f"{ENVIRONMENT_PREFIX}RESULTS", ""), {"verdict": "failed", "reason": reason})
