from pathlib import Path

import pytest

from tests.datasets.samples import files, write


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of 20 images in two classes."""
    return write(tmp_path / "pets", files())
