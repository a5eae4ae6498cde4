"""Where a model comes from: source revision, training code, and the fingerprint that finds it again."""

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from image_classifier.errors import TrainingError
from image_classifier.settings import Settings

TRAINING_SETTINGS = (
    "budget",
    "seed",
    "mirror",
    "precision",
    "recipe",
    "training_processes",
    "image_size",
    "validation_fraction",
    "test_fraction",
    "retrain",
)
"""The settings that change what training gives; the data itself is named by its digest."""

TRAINING_CODE = ("datasets", "images", "package", "training", "settings/recipe.py")
"""The rooms and files that decide what a trained package holds; an edit elsewhere does not train again."""

_LOOK_AGAIN = re.compile(r" ?\(look again: [^()]*\)$")


def look_again(retrain: str, why: str) -> str:
    """A text for the setting `retrain`, now `retrain`, that starts the step but trains only where the data changed."""
    return f"{forcing(retrain)} (look again: {re.sub(r'[()]', '', why)})".strip()


def forcing(retrain: str) -> str:
    """What of the setting `retrain` forces a new training."""
    return _LOOK_AGAIN.sub("", retrain)


def source_revision(given: str, folder: Path) -> str:
    """The revision `given` by the supply chain; else that of the git checkout around `folder`; else "unknown"."""
    if given:
        return given
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{revision}-changed" if changed else revision


def training_code_digest(package: Path) -> str:
    """SHA-256 over the Python files of TRAINING_CODE in the source folder `package`.

    Raises TrainingError where a room or file is missing: a digest of nothing would match every later version.
    """
    digest = hashlib.sha256()
    for name in TRAINING_CODE:
        place = package / name
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        if not files or not all(file.is_file() for file in files):
            raise TrainingError(f"{place} has no training code, so trained models cannot be told apart by it")
        for file in files:
            path = file.relative_to(package).as_posix()
            digest.update(f"{path}\n".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def fingerprint(code_digest: str, data_digest: str, settings: Settings) -> str:
    """The same training code, data and parameters give the same fingerprint; SHA-256 in hexadecimal."""
    parts: Mapping[str, object] = {
        "code": code_digest,
        "data": data_digest,
        **{name: getattr(settings, name) for name in TRAINING_SETTINGS},
        "retrain": forcing(settings.retrain),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
