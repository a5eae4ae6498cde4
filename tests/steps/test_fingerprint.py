import hashlib
import inspect
import json
import os
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import grimp
import numpy as np
import pytest

import image_classifier
from image_classifier.datasets import DataRequest
from image_classifier.errors import TrainingError
from image_classifier.settings import SETTINGS, Recipe, Settings
from image_classifier.steps.fingerprint import (
    TRAINING_CODE,
    fingerprint,
    forcing,
    look_again,
    source_revision,
    training_code_digest,
    training_settings,
)
from image_classifier.steps.train import TrainingIdentity
from image_classifier.training import ModelLimits, Plan, export_package
from tests.training.samples import stripes

SOURCE = Path(image_classifier.__file__).parent


OTHER_VALUES = {
    "home": Path("/elsewhere"),
    "source": Path("/elsewhere"),
    "recipe": Recipe(width=2),
    "mirror": "no",
    "precision": "int8",
    "device": "cuda",
}


def other_value(name):
    """A value of a setting that differs from its default."""
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    default = SETTINGS[name].default
    return f"other {name}" if isinstance(default, str) else default + 1


def test_the_fingerprint_has_exactly_the_settings_that_are_declared_to_affect_the_model():
    unchanged = fingerprint("c", "d", Settings())
    changing = {
        name
        for name in SETTINGS
        if fingerprint("c", "d", replace(Settings(), **{name: other_value(name)})) != unchanged
    }
    assert changing == {name for name, setting in SETTINGS.items() if setting.trains}


WITHOUT_EFFECT = {
    "home": "only says where the data is cached",
    "data": "the fingerprint has the digest of the data",
    "max_pixels": "images that are too large are not in the digest of the data",
    "max_data": "more data is an error",
    "fetch_timeout": "data that is not fetched is an error",
    "layout": "the fingerprint has the digest of the data",
    "labels": "the fingerprint has the digest of the data",
    "label_column": "the fingerprint has the digest of the data",
    "photo_size": "follows from the backbone",
    "folder": "only says where the package is written",
    "classifier": "the training's result",
    "dataset": "the fingerprint has its digest",
    "validation": "chosen by seed and validation_fraction",
    "provenance": "describes the training",
    "threads": "only changes the rounding of sums",
    "group": "its size is training_processes",
    "spent": "only shortens the training",
}
"""What data preparation, training and export take without being part of the fingerprint, and why."""


def test_whatever_preparation_training_and_export_take_is_in_the_fingerprint_or_has_a_reason():
    taken = {field.name for kind in (DataRequest, Plan, ModelLimits) for field in fields(kind)}
    taken |= set(inspect.signature(export_package).parameters)
    assert taken - WITHOUT_EFFECT.keys() == set(training_settings(Settings())) - {"training_processes", "retrain"}
    assert WITHOUT_EFFECT.keys() <= taken


def test_a_setting_without_effect_on_the_data_does_not_train_again():
    """Images of a data set that does not allow flips are not flipped with mirror=auto, either."""
    data = stripes(8)
    prints = {
        (mirror, allowed): TrainingIdentity.of(
            replace(Settings(), mirror=mirror), replace(data, mirror=allowed)
        ).fingerprint
        for mirror, allowed in [("auto", False), ("auto", True), ("no", False)]
    }
    assert prints["auto", False] == prints["no", False] != prints["auto", True]


@pytest.mark.parametrize(
    ("size", "backbone", "matters"),
    [
        (8, "auto", False),
        (8, "none", False),
        (96, "auto", True),
        (96, "none", False),
        (96, "efficientnet-lite0", False),
    ],
)
def test_the_limits_on_a_backbone_train_again_only_if_one_is_chosen(size, backbone, matters):
    settings = replace(Settings(), backbone=backbone)
    prints = {
        TrainingIdentity.of(
            replace(settings, max_latency=latency, max_model_size=model_size), stripes(size)
        ).fingerprint
        for latency, model_size in [(0.25, 0), (0.1, 0), (0.25, 10**6)]
    }
    assert len(prints) == (3 if matters else 1)


def test_a_crop_has_the_fingerprint_from_before_there_was_a_framing():
    settings = replace(Settings(), framing="crop")
    parts = {"code": "c", "data": "d", **training_settings(settings), "retrain": ""}
    del parts["framing"]
    expected = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    assert fingerprint("c", "d", settings) == expected
    assert fingerprint("c", "d", replace(settings, framing="pad")) != expected


@pytest.mark.parametrize(
    ("size", "width", "backbone", "matters"),
    [
        (96, 96, "auto", False),
        (96, 192, "auto", True),
        (96, 192, "none", False),
        (32, 64, "auto", False),
        (32, 64, "efficientnet-lite0", True),
    ],
)
def test_the_automatic_framing_is_another_training_only_if_padding_is_tried(size, width, backbone, matters):
    data = stripes(size, images=8)
    originals = np.tile(np.array([width, size, 1], np.int32), (8, 1))
    data = replace(data, train=replace(data.train, originals=originals))
    automatic, crop = (
        TrainingIdentity.of(replace(Settings(), backbone=backbone, framing=framing), data).fingerprint
        for framing in ("auto", "crop")
    )
    assert (automatic != crop) is matters


def test_small_images_are_the_same_training_without_a_backbone():
    prints = [
        TrainingIdentity.of(replace(Settings(), backbone=name), stripes(8)).fingerprint for name in ("auto", "none")
    ]
    assert prints[0] == prints[1]


@pytest.mark.parametrize("forced", ["", "new labels"])
def test_looking_again_at_the_same_data_does_not_train(forced):
    settings = replace(Settings(), retrain=forced)
    once = look_again(forced, "2026-01-01 drift: size is higher (p = 0.1)")
    twice = look_again(once, "2026-01-02 schedule")
    assert len({forced, once, twice}) == 3
    for text in (once, twice):
        assert forcing(text) == forced
        again = replace(settings, retrain=text)
        assert fingerprint("c", "d", again) == fingerprint("c", "d", settings)
        assert fingerprint("c", "e", again) != fingerprint("c", "d", settings)


def test_data_and_code_change_the_fingerprint():
    settings = Settings()
    prints = {fingerprint(code, data, settings) for code in "ab" for data in "ab"}
    assert len(prints) == 4


def test_the_training_code_is_everything_that_training_imports():
    graph = grimp.build_graph("image_classifier", cache_dir=None)
    reached = set().union(
        *(graph.find_upstream_modules(f"image_classifier.training.{name}") for name in ("loop", "export"))
    )
    places = {module.removeprefix("image_classifier.").replace(".", "/") for module in reached}
    hashed = {name.removesuffix(".py") for name in TRAINING_CODE}
    # They pass values and report; no change in them affects the trained model.
    harmless = {"errors", "files", "process", "progress", "text", "settings"}
    harmless |= {f"settings/{name}" for name in ("declarations", "kinds", "loading")}
    assert {place for place in places if not hashed & {place, place.split("/")[0]}} <= harmless


@pytest.fixture
def code(tmp_path):
    """A source folder with one line in each package and file of the training code, and in one other package."""
    for name in (*TRAINING_CODE, "gate"):
        file = tmp_path / name if name.endswith(".py") else tmp_path / name / "module.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a = 1\n")
    return tmp_path


def test_only_a_change_of_training_code_changes_its_digest(code):
    digests = [training_code_digest(code)]
    (code / "gate/module.py").write_text("a = 2\n")
    assert training_code_digest(code) == digests[0]
    for name in ("datasets/module.py", "training/module.py", "settings/recipe.py"):
        (code / name).write_text("a = 2\n")
        digests.append(training_code_digest(code))
    assert len(set(digests)) == 4


@pytest.mark.parametrize("missing", TRAINING_CODE)
def test_missing_training_code_is_an_error(code, missing):
    place = code / missing
    (place if place.is_file() else place / "module.py").unlink()
    with pytest.raises(TrainingError, match=missing):
        training_code_digest(code)


def test_the_source_revision_is_gits_with_a_mark_for_changed_files(tmp_path):
    assert source_revision("main@sha1:abc", tmp_path) == "main@sha1:abc"
    assert source_revision("", tmp_path) == "unknown"

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message", "first")
    assert source_revision("", tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert source_revision("", tmp_path) == git("rev-parse", "HEAD") + "-changed"


def test_reading_the_source_revision_writes_nothing_into_the_repository(tmp_path):
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init", "--quiet")
    (tmp_path / "file").write_text("text")
    git("add", "file")
    git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "--message", "first")
    os.utime(tmp_path / "file", (1, 1))  # git would refresh its index
    index = (tmp_path / ".git" / "index").read_bytes()
    assert not source_revision("", tmp_path).endswith("-changed")
    assert (tmp_path / ".git" / "index").read_bytes() == index
