"""What a step leaves for the supply chain: a file a result, as Tekton reads them."""

from collections.abc import Mapping
from pathlib import Path

from image_classifier.settings import ENVIRONMENT_PREFIX, Settings
from image_classifier.text import clip

MOST_CHARACTERS = 300
"""Of a reason: Tekton carries all results of a task in 4,096 bytes."""


def leave_results(settings: Settings, results: Mapping[str, str]) -> None:
    """Write each result to a file of its name, without a newline, where a folder for them is set."""
    if settings.results:
        for name, value in results.items():
            (Path(settings.results) / name).write_text(value, encoding="utf-8")


def leave_failure(environment: Mapping[str, str], reason: str) -> None:
    """Leave why a step failed among its results, so that it is said where the step's outcome is shown.

    It reads the environment itself, as the failure may be that of a setting.
    """
    if folder := environment.get(f"{ENVIRONMENT_PREFIX}RESULTS"):
        for name, value in {"verdict": "failed", "reason": clipped(reason)}.items():
            (Path(folder) / name).write_text(value, encoding="utf-8")


def clipped(text: str) -> str:
    """As much of a reason as a result may hold."""
    return clip(text, MOST_CHARACTERS)
