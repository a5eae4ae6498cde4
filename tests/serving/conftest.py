"""Fixtures of the server's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from image_classifier.package.package import Model, Package, encode_png
from tests.conftest import COLOURS, colour_images
from tests.serving.server_process import Server, running


@pytest.fixture(scope="session")
def model(package_folder: Path) -> Model:
    return Model.load(Package.read(package_folder), threads=1)


@pytest.fixture(scope="session")
def pngs() -> dict[str, bytes]:
    """An encoded image of each colour."""
    return dict(zip(COLOURS, map(encode_png, colour_images()), strict=True))


@pytest.fixture(scope="session")
def server(package_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that leave it as it is; it takes at most 200,000 bytes."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running(package_folder, log, "--threads", "2", "--max-upload", "200kB") as server:
        yield server
