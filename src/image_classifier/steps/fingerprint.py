"""The fingerprint of a training: the same code, data and settings give the same model, which is found by it."""

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from image_classifier.errors import TrainingError
from image_classifier.images import CROP
from image_classifier.settings import SETTINGS, Settings

TRAINING_CODE = ("backbones", "datasets", "images", "package", "training", "settings/recipe.py")
"""Rooms and files that affect the trained package; a change elsewhere does not train again."""

_LOOK_AGAIN = re.compile(r" ?\(look again: [^()]*\)$")


def look_again(retrain: str, reason: str) -> str:
    """A new value for the setting `retrain` that starts the step, but trains only if the data changed."""
    return f"{forcing(retrain)} (look again: {re.sub(r'[()]', '', reason)})".strip()


def source_revision(given: str, folder: Path) -> str:
    """The revision `given` by the supply chain; else of the git checkout around `folder`; else "unknown"."""
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

    Raises TrainingError if a room or file is missing: a digest of nothing would match every later version.
    """
    digest = hashlib.sha256()
    for name in TRAINING_CODE:
        place = package / name
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        if not files or not all(file.is_file() for file in files):
            raise TrainingError(f"{place} contains no training code, so a change of it could not be detected")
        for file in files:
            path = file.relative_to(package).as_posix()
            digest.update(f"{path}\n".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def training_settings(settings: Settings) -> dict[str, Any]:
    """The settings that affect the trained model, by name; the data itself is identified by its digest."""
    return {name: getattr(settings, name) for name, setting in SETTINGS.items() if setting.trains}


def fingerprint(code_digest: str, data_digest: str, settings: Settings) -> str:
    """SHA-256, in hexadecimal, over training code, data and the settings that affect the model."""
    parts: dict[str, object] = {
        "code": code_digest,
        "data": data_digest,
        **training_settings(settings),
        "retrain": forcing(settings.retrain),
    }
    if settings.framing == CROP:  # as without the setting
        del parts["framing"]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def forcing(retrain: str) -> str:
    """The part of the setting `retrain` that forces a new training."""
    return _LOOK_AGAIN.sub("", retrain)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
