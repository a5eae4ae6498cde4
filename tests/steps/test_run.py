import html
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from image_classifier.errors import SettingError
from image_classifier.evaluation.evaluation import recall_metric
from image_classifier.settings import Recipe, Seconds, Settings
from image_classifier.steps.model_access import open_registry
from image_classifier.steps.run import RunOutcome, run
from image_classifier.steps.work_folder import WorkFolder
from tests.ports import free_port
from tests.steps.chain import COLORS, Lines, write_images


def run_command(settings: Settings, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "image_classifier.cli", "run", "--once", "--home", str(settings.home)]
    command += ["--data", settings.data, "--name", settings.name, "--budget", "2s", "--recipe", str(settings.recipe)]
    command += ["--max-calibration-error", "1", "--port", str(free_port()), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=170)


@pytest.mark.slow
def test_the_champion_is_served_and_gets_one_request(champion):
    result = run_command(champion)
    assert result.returncode == RunOutcome.NEW_SERVES, result.stderr
    assert "already trained: version 1" in result.stdout
    assert "/predict; the answer is" in result.stdout
    assert re.fullmatch(
        r"version 1 was the champion already \(accuracy \d+\.\d\d %\); it serves", result.stdout.splitlines()[-1]
    )


ODD_NAMES = (
    "Corn_(maize)", "colt's foot", "a,b", "😀", "日本語", "<script>alert(1)<∕script>", '"quoted"', "50%", "{{7*7}}",
    "-", "__proto__", "NaN", "=1+1", "y" * 254 + "a", "y" * 254 + "b",
)  # fmt: skip


@pytest.mark.slow
def test_any_name_that_a_folder_can_have_is_that_of_a_class_from_the_data_to_the_answer(empty_database, tmp_path):
    """Its metric, its place in the report and in the answer of the server."""
    shades = np.random.default_rng(0).integers(0, 256, (len(ODD_NAMES), 3))
    data = write_images(tmp_path / "images", dict(zip(ODD_NAMES, shades, strict=True)), count=12)
    settings = Settings(
        home=tmp_path / "home",
        data=str(data),
        name="odd",
        recipe=Recipe(width=0.5),
        budget=Seconds(1.0),
        port=free_port(),
        # Whether these few images suffice for the gate is not the question.
        min_accuracy=0,
        min_recall=0,
        max_calibration_error=1,
        max_duplicates=1,
    )
    settings.home.mkdir()
    shutil.copy(empty_database, settings.home / "mlflow.db")
    lines = Lines()
    assert run(settings, lines, keep_serving=False) is RunOutcome.NEW_SERVES, lines.text
    assert "/predict; the answer is " in lines.text
    metrics = open_registry(settings, Lines()).runs.metrics(
        WorkFolder.of(settings).trained_package().provenance["run_id"]
    )
    assert {recall_metric(name) for name in ODD_NAMES} <= metrics.keys()
    page = (settings.home / "work/report.html").read_text()
    assert "<script" not in page
    assert all(html.escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in page for name in ODD_NAMES)


@pytest.mark.slow
def test_after_a_refusal_the_last_line_and_the_exit_status_say_that_the_champion_still_serves(champion):
    result = run_command(champion, "--max-latency", "0", "--retrain", "refused")
    assert result.returncode == RunOutcome.OTHER_SERVES, result.stderr
    assert "/predict; the answer is" in result.stdout
    last = result.stdout.splitlines()[-1]
    assert last.startswith("version 2 was refused: p95 latency ")
    assert "; version 1 (accuracy " in last
    assert last.endswith(" %) still serves")


@pytest.mark.slow
def test_after_a_refusal_a_champion_of_other_classes_is_not_served(champion, tmp_path):
    fewer = {name: color for name, color in COLORS.items() if name != "white"}
    lines = Lines()
    settings = replace(champion, data=str(write_images(tmp_path / "fewer", fewer)), max_latency=0, port=free_port())
    assert run(settings, lines, keep_serving=False) is RunOutcome.NOTHING_SERVES
    assert lines[-1].startswith("version 2 was refused: p95 latency ")
    expected = f"nothing serves, as version 1, the champion of {champion.name}, has other classes (blue, green, red, "
    assert expected in lines[-1]
    assert "/predict; the answer is" not in lines.text


@pytest.mark.slow
def test_other_data_has_a_model_of_its_own(champion, tmp_path):
    """Without a name: a refused model of the second data set leaves nothing to serve, not the first one's champion."""
    data = write_images(tmp_path / "Other Images", seed=1)
    settings = Settings(
        home=champion.home,
        data=str(data),
        recipe=champion.recipe,
        budget=champion.budget,
        max_latency=0,
        port=free_port(),
    )
    lines = Lines()
    assert run(settings, lines, keep_serving=False) is RunOutcome.NOTHING_SERVES
    assert "registered as models:/other-images/1" in lines
    assert lines[-1].startswith("version 1 was refused: ")
    assert lines[-1].endswith("; nothing serves")
    assert open_registry(champion, Lines()).versions.newest().number == 1


def test_a_taken_port_is_found_before_anything_else(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(home=tmp_path / "home", port=port)
        with pytest.raises(SettingError, match=f"port {port} on 127.0.0.1 is already in use; choose another --port"):
            run(settings, Lines(), keep_serving=False)
    assert not settings.home.exists()
