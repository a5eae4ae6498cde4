"""`python -m tools.generate`: it writes what is stale, and names it with --check."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import tools.generate
from tools.documents import settings_page
from tools.generate import generate

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A copy of the derived files, in which one is stale."""
    for folder in ("tekton", "config/chain"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(tools.generate, "ROOT", tmp_path)
    CliRunner().invoke(generate)
    path = tmp_path / "tekton/train-task.yaml"
    path.write_text(path.read_text().replace("- name: seed", "- name: moons"))
    return tmp_path


def test_check_names_the_stale_files_and_writes_nothing(root):
    before = (root / "tekton/train-task.yaml").read_text()
    result = CliRunner().invoke(generate, ["--check"])
    assert (result.exit_code, result.output) == (1, "tekton/train-task.yaml is stale; run `make generate`\n")
    assert (root / "tekton/train-task.yaml").read_text() == before


def test_stale_files_are_written_and_then_up_to_date(root):
    assert CliRunner().invoke(generate).output == "wrote tekton/train-task.yaml\n"
    assert "- name: seed\n" in (root / "tekton/train-task.yaml").read_text()
    result = CliRunner().invoke(generate, ["--check"])
    assert (result.exit_code, result.output) == (0, "")


def test_a_missing_marker_is_named(root):
    path = root / "tekton/watch-task.yaml"
    path.write_text(path.read_text().replace("# settings as params: end", ""))
    result = CliRunner().invoke(generate)
    assert result.exit_code == 1
    assert result.output.startswith("Error: watch-task.yaml lacks the markers `settings as params: begin")


def test_the_page_of_settings_shows_types_choices_defaults_variables_and_workload_params():
    lines = settings_page().splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert rows["budget"].startswith("| `budget` | `DURATION` | `20s` |")
    assert rows["mirror"].startswith("| `mirror` | `auto`, `yes`, `no` | `auto` |")
    assert "`MLFLOW_TRACKING_URI`" in rows["tracking_uri"]
    assert rows["data"].endswith("| yes |")
    assert rows["namespace"].endswith("|  |")
    assert "## Hyperparameter search" in lines
    assert rows["trainer_image"].startswith("| `trainer_image` | Image of the steps")
