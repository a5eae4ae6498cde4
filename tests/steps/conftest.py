import fcntl
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from image_classifier.settings import Recipe, Seconds, Settings
from tests.attestation.test_model_signature import write_keys
from tests.steps.chain import copy_home, run_chain, write_images


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Settings:
    """Settings of a home in which version 1 was trained, signed, accepted and promoted; use a copy of it.

    Trained once for all processes of pytest-xdist.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = folder / "keys"
        settings = replace(
            Settings(),
            home=folder / "trained",
            data=str(folder / "images"),
            # Even a busy machine learns the colors with so small a network.
            recipe=Recipe(width=0.5),
            budget=Seconds(2.0),
            max_calibration_error=1.0,
            signing_key=str(keys / "key.pem"),
            public_key=str(keys / "key.pub"),
        )
        if not settings.home.exists():
            keys.mkdir()
            write_keys(keys)
            write_images(folder / "images")
            settings.home.mkdir()
            shutil.copy(empty_database, settings.home / "mlflow.db")
            assert "version 1 is the champion" in run_chain(settings).text
    return settings


@pytest.fixture
def champion(trained: Settings, tmp_path: Path) -> Settings:
    """Settings of a home of the test's own, whose champion is the trained version 1."""
    return copy_home(trained, tmp_path / "home")
