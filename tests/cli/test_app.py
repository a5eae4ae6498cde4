"""The command line as a user meets it, in processes of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from image_classifier.cli import main

STEPS = (
    "data",
    "train",
    "tune",
    "evaluate",
    "register",
    "gate",
    "promote",
    "serve",
    "predict",
    "score",
    "history",
    "rollback",
    "why",
    "run",
)


def image_classifier(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "image_classifier.cli", *arguments],
        env={**os.environ, "IMAGE_CLASSIFIER_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_commands_are_listed_in_the_order_of_the_chain():
    listed = CliRunner().invoke(main, ["--help"]).output.split("Commands:")[1]
    positions = [listed.index(f"\n  {step} ") for step in STEPS]
    assert positions == sorted(positions)


@pytest.mark.parametrize("step", STEPS)
def test_the_help_of_each_command_teaches_with_an_example(step):
    result = CliRunner().invoke(main, [step, "--help"])
    assert result.exit_code == 0
    assert f"    image-classifier {step}" in result.output or f"  image-classifier {step}" in result.output


def test_the_version_is_said():
    assert re.fullmatch(
        r"image-classifier, version \d+\.\d+\S*\n", CliRunner().invoke(main, ["--version"]).output
    )


def imported(arguments: list[str], modules: set[str]) -> str:
    """The exit code of a command in a new process, and which of the modules it imported."""
    code = (
        "import sys, click.testing, image_classifier.cli as c;"
        f"asked = click.testing.CliRunner().invoke(c.main, {arguments});"
        f"print(asked.exit_code, sorted({modules} & set(sys.modules)))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_needs_neither_torch_nor_mlflow():
    assert imported(["run", "--help"], {"torch", "mlflow", "pyarrow", "sklearn", "scipy"}) == "0 []\n"


def test_why_of_a_workload_needs_neither_torch_nor_mlflow():
    assert imported(["why", "photos"], {"torch", "mlflow", "scipy", "sklearn"}) == "1 []\n"


def test_fetch_which_every_pod_waits_for_needs_no_numpy():
    assert (
        imported(["fetch", "models:/a@b", "folder"], {"numpy", "PIL", "flask", "onnxruntime", "cryptography"})
        == "1 []\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--budget", "abc"], "error: budget is 'abc' (from --budget), but must be a time"),
        (["data", "--data", "/no/such/folder"], "/no/such/folder"),
        (
            ["tune", "--budget", "3s", "--tune-budget", "10s"],
            "a tune_budget of 10 s is too short for trainings of 3 s",
        ),
        (["tune", "--tune-storage", "tuning"], "the tune_storage is no address of a database"),
        (["evaluate"], "run `image-classifier train` first"),
        (["register"], "run `image-classifier train` first"),
        (["gate"], "candidate"),
        (["serve", "--model", "/no/such/package"], "/no/such/package is no model package"),
        (["predict", "--model", "models:/nobody/1", "photo.jpg"], "nobody"),
        (["rollback"], "is the champion; there is nothing to roll back from"),
        (["rollback", "--release"], "nothing is held back without a platform"),
        (["score", "photos", "--model", "/no/such/package"], "/no/such/package is no model package"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_clear_line_and_status_1(tmp_path, empty_database, arguments, expected):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    result = image_classifier(*arguments, home=tmp_path)
    assert result.returncode == 1
    assert expected in result.stderr
    assert [
        line for line in result.stderr.splitlines() if line.startswith("error: ")
    ] == result.stderr.splitlines()


def test_why_of_a_workload_where_no_cluster_is_named_says_so(tmp_path):
    result = image_classifier("why", "photos", home=tmp_path, HOME=str(tmp_path), KUBECONFIG="")
    assert result.returncode == 1
    assert "error: no cluster is named here: set KUBECONFIG" in result.stderr


def test_why_of_an_empty_registry_is_told_as_json_too(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    result = image_classifier("why", "--json", home=tmp_path)
    assert result.returncode == 1
    assert json.loads(result.stdout)["place"] == "none"


def test_debug_shows_the_traceback(tmp_path):
    result = image_classifier("--debug", "train", "--budget", "abc", home=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "SettingError" in result.stderr


def test_a_workload_file_gives_settings_that_an_option_overrides(tmp_path):
    workload = tmp_path / "workload.yaml"
    workload.write_text("spec:\n  params:\n    - name: data\n      value: /from/workload\n")
    given = image_classifier("--workload", str(workload), "data", home=tmp_path)
    assert "/from/workload" in given.stderr
    overridden = image_classifier(
        "--workload", str(workload), "data", "--data", "/from/option", home=tmp_path
    )
    assert "/from/option" in overridden.stderr


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("spec:\n  params:\n    - name: buget\n      value: 60s\n", "there is no workload param 'buget'"),
        ("spec: [", "is no YAML"),
        ("- a list", "is no workload"),
        (None, "cannot be read"),
    ],
)
def test_an_unusable_workload_file_is_named(tmp_path, content, expected):
    workload = tmp_path / "workload.yaml"
    if content is not None:
        workload.write_text(content)
    result = image_classifier("--workload", str(workload), "history", home=tmp_path)
    assert result.returncode == 1
    assert expected in result.stderr
    assert "workload" in result.stderr
