"""Fixtures of the server's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from image_classifier.package.model import Model
from image_classifier.package.package import Package, encode_png
from tests.conftest import COLORS, color_images
from tests.serving.server_process import Server, running


@pytest.fixture(scope="session")
def model(package_folder: Path) -> Model:
    return Model.load(Package.read(package_folder), threads=1)


@pytest.fixture(scope="session")
def pngs() -> dict[str, bytes]:
    """An encoded image of each color."""
    return dict(zip(COLORS, map(encode_png, color_images()), strict=True))


@pytest.fixture(scope="session")
def server(package_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that tests share and do not stop; its limit on a body is 200,000 bytes."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running(package_folder, log, "--threads", "2", "--max-upload", "200kB") as server:
        yield server


@pytest.fixture(scope="session")
def two_workers(package_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers that tests share; it stops without waiting for load balancers."""
    log = tmp_path_factory.mktemp("two-workers") / "log"
    with running(package_folder, log, "--drain-timeout", "0", workers=2) as server:
        yield server
