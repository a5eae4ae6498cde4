import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from image_classifier.errors import AcceptanceError
from image_classifier.package.package import GoldenImage, Package
from image_classifier.platform.acceptance import (
    Expected,
    Trial,
    held_out_images,
    images_from_json,
    images_to_json,
    try_candidate,
)
from image_classifier.steps.local_server import free_port
from tests.conftest import COLOURS, colour_images, colour_probabilities

IMAGE = "registry.example.org/server@sha256:" + "1" * 64


@contextmanager
def serving(folder: Path, port: int, image: str) -> Iterator[None]:
    command = [
        sys.executable,
        "-m",
        "image_classifier.cli",
        "serve",
        "--model",
        str(folder),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, env={**os.environ, "IMAGE_CLASSIFIER_IMAGE": image})
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def package(package_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("served") / "package"
    shutil.copytree(package_folder, folder)
    about = {"name": "colours", "version": 7, "uri": "models:/colours/7"}
    (folder / "version.json").write_text(json.dumps(about))
    return Package.read(folder)


@pytest.fixture(scope="module")
def url(package: Package) -> Iterator[str]:
    """A real server, that is still starting when it is first asked."""
    port = free_port()
    with serving(package.folder, port, IMAGE):
        yield f"http://127.0.0.1:{port}"


def attempt(url: str, package: Package, expected: Expected, **limits: float) -> Trial:
    given = {"max_latency": 10.0, "timeout": 30.0, **limits}
    return try_candidate(url, package, expected, report=print, **given)


def test_a_candidate_that_is_still_starting_is_waited_for_and_accepted(url, package):
    trial = attempt(url, package, Expected("7", IMAGE))
    assert trial.images == len(package.golden)
    assert trial.largest_difference < 1e-3
    assert trial.latency_p95 < 10


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (Expected("8", IMAGE), "did not answer as version 8 in .* within 1 s: it answers as version 7"),
        (Expected("7", "other@sha256:2"), "did not answer as version 7 in other@sha256:2 within 1 s"),
    ],
)
def test_another_version_or_image_is_not_taken_for_the_candidate(url, package, expected, said):
    with pytest.raises(AcceptanceError, match=said):
        attempt(url, package, expected, timeout=1)


def test_other_answers_than_recorded_are_refused(url, package):
    golden = package.golden[0]
    other = GoldenImage(golden.png, golden.label, tuple(reversed(golden.probabilities)))
    with pytest.raises(AcceptanceError, match=r"answers 'red' with .* 'white' with .* was recorded"):
        attempt(url, replace(package, golden=(other, *package.golden[1:])), Expected("7", IMAGE))


def test_an_image_that_the_server_refuses_is_named(url, package):
    broken = GoldenImage(b"no image", "red", package.golden[0].probabilities)
    with pytest.raises(AcceptanceError, match="refuses a held-out image: it answers 400"):
        attempt(url, replace(package, golden=(broken,)), Expected("7", IMAGE))


def test_a_slow_candidate_is_refused(url, package):
    with pytest.raises(AcceptanceError, match=r"max_latency is 0 ms"):
        attempt(url, package, Expected("7", IMAGE), max_latency=1e-6)


def test_an_address_where_nothing_answers_is_named(package):
    with pytest.raises(AcceptanceError, match=r"within 1 s: it does not answer"):
        attempt(f"http://127.0.0.1:{free_port()}", package, Expected("7", ""), timeout=1)


@pytest.mark.parametrize(
    ("most", "expected"), [(16, ["red", "green", "blue", "white"]), (2, ["red", "white"])]
)
def test_held_out_images_are_spread_over_the_test_part_and_kept_as_they_are(most, expected):
    chosen = held_out_images(colour_images(), list(COLOURS), colour_probabilities(), most)
    assert [image.label for image in chosen] == expected
    assert images_from_json(images_to_json(chosen).encode()) == chosen
