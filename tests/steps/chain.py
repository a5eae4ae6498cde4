"""Helpers for tests of the steps: a data set, reported lines, the chain up to the promotion, copies of a home."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from PIL import Image

from image_classifier.settings import Settings
from image_classifier.steps.evaluate import evaluate
from image_classifier.steps.gate import gate
from image_classifier.steps.promote import promote
from image_classifier.steps.register import register
from image_classifier.steps.train import train
from tests.conftest import SIZE

COLORS = {"blue": (60, 60, 200), "green": (60, 200, 60), "red": (200, 60, 60), "white": (200, 200, 200)}


class Lines(list[str]):
    """Collects the lines that steps report."""

    def __call__(self, line: str) -> None:
        self.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self)


def run_chain(settings: Settings) -> Lines:
    """Run the steps from `train` to `promote`; returns what they reported."""
    lines = Lines()
    for step in (train, evaluate, register, gate, promote):
        step(settings, lines)
    return lines


def copy_home(settings: Settings, home: Path) -> Settings:
    """Copy the home folder to `home`; returns the settings for the copy."""
    shutil.copytree(settings.home, home)
    move_database(home / "mlflow.db", settings.home, home)
    # MLflow's client remembers the place of each run and model by its ID.
    _artifact_repos_cache.clear()
    return replace(settings, home=home)


def move_database(database: Path, before: Path, after: Path) -> None:
    """Replace the path of the home, with which MLflow stores the place of every artifact."""
    places = (
        ("experiments", "artifact_location"),
        ("runs", "artifact_uri"),
        ("logged_models", "artifact_location"),
        ("model_versions", "storage_location"),
    )
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in places:
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (f"{before}", f"{after}"))


def write_images(folder: Path, colors=COLORS, count=40, seed=0) -> Path:
    """Noisy images, half of them for the test part."""
    random = np.random.default_rng(seed)
    for part in ("train", "test"):
        for name, color in colors.items():
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                shade = np.array(color) + random.normal(0, 25, 3)
                pixels = np.clip(shade + random.normal(0, 10, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{seed}-{number}.png")
    return folder


def write_photos(folder: Path, images: int) -> Path:
    """A data set of `images` photos of each color, 160 x 200 pixels with noise; returns `folder`."""
    random = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number in range(images):
            pixels = random.normal(color, 25, (160, 200, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")
    return folder
