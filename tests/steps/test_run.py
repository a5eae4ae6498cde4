import subprocess
import sys

import pytest

from tests.ports import free_port

pytestmark = pytest.mark.slow


def test_the_champion_is_served_and_gets_one_request(champion):
    command = [sys.executable, "-m", "image_classifier.cli", "run", "--once", "--home", str(champion.home)]
    command += ["--data", champion.data, "--budget", "2s", "--recipe", str(champion.recipe)]
    command += ["--max-calibration-error", "1", "--port", str(free_port())]
    result = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert result.returncode == 0, result.stderr
    assert "already trained: version 1" in result.stdout
    assert "/predict; the answer is" in result.stdout
