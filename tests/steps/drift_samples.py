"""A registry whose champion has reference statistics, images like them, and a stored drift record."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from image_classifier.package.model import Model
from image_classifier.package.package import Package
from image_classifier.package.reference_statistics import compute_reference
from image_classifier.registry import artifact_paths
from image_classifier.registry.registry import Registry
from image_classifier.settings import Settings
from tests.conftest import SIZE, write_color_package
from tests.registry.mlflow_helpers import registry_at, small_dataset
from tests.serving.observe.noisy_images import noisy_images

WINDOW = 50


def registry_with_champion(home: Path, name: str = "colors") -> Settings:
    """Register a package with the statistics of `noisy_images` as the champion; returns the settings for it."""
    registry = registry_at(home, name=name)
    tags = {"fingerprint": "f"}
    with registry.runs.start(parameters={"seed": 0}, tags=tags, dataset=small_dataset()) as run:
        pass
    images, folder = noisy_images(400), home / f"package of {name}"
    write_color_package(folder, run_id=run.id, fingerprint="f")
    probabilities = Model.load(Package.read(folder), threads=1).probabilities(images)
    shutil.rmtree(folder)
    reference = compute_reference(images, np.full((400, 3), SIZE, np.int32), probabilities)
    write_color_package(folder, reference=reference, run_id=run.id, fingerprint="f")
    version = registry.versions.register(run.id, folder, tags=tags)
    registry.history.promote(version, actor="test", reason="the first")
    return Settings(home=home, name=name, drift_window=WINDOW)


def store_drift(registry: Registry) -> None:
    """Store a drift record of the champion whose only window drifted."""
    judgement = {"verdict": "drift", "reason": "brightness is lower", "features": {}}
    window = {"ended": datetime.now(UTC).isoformat(), "images": WINDOW, "judgement": judgement}
    record = {"images": WINDOW, "filling": {"images": 0, "features": {}}, "servers": {}, "windows": [window]}
    with registry.runs.resume(registry.versions.champion().run_id) as run:
        run.log_text(json.dumps(record), artifact_paths.DRIFT)
