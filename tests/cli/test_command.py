"""The command line, in this process and, for exit status and imports, in others."""

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
from tests.steps.chain import write_images

SECTIONS = {
    "All steps on this machine": ["run"],
    "Steps of the chain": [
        "source", "test", "data", "train", "tune", "evaluate", "register", "gate", "promote", "accept", "watch",
    ],
    "Use a model": ["serve", "predict", "score", "fetch"],
    "Operate": ["history", "why", "rollback", "drift", "retrain"],
}  # fmt: skip
COMMANDS = [name for names in SECTIONS.values() for name in names]
WITHOUT_EXAMPLE = ("source", "test")  # run by the supply chain


def run(*arguments, home, **environment):
    """Run a command in this process."""
    environment = {"IMAGE_CLASSIFIER_HOME": str(home), **environment}
    return CliRunner().invoke(main, arguments, env=environment)


def run_process(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "image_classifier.cli", *arguments],
        env={**os.environ, "IMAGE_CLASSIFIER_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def help_of(*command):
    result = CliRunner().invoke(main, [*command, "--help"], terminal_width=200)
    assert result.exit_code == 0
    return result.output


def test_the_help_lists_the_commands_in_sections_in_the_order_of_the_chain():
    sections, title = {}, ""
    for line in help_of().partition("-h, --help")[2].splitlines():
        if heading := re.fullmatch(r"(\w.*):", line):
            title = heading[1]
            sections[title] = []
        elif command := re.match(r"  (\w+) ", line):
            sections[title].append(command[1])
    assert sections == SECTIONS


def test_the_summary_of_a_command_is_a_whole_sentence():
    assert "..." not in help_of().partition("Options:")[2]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in WITHOUT_EXAMPLE])
def test_the_help_of_a_command_has_an_example(command):
    assert f"  image-classifier {command}" in help_of(command)


def test_the_options_of_a_command_are_in_sections_by_topic():
    headings = re.findall(r"^(\w.*):$", help_of("run"), flags=re.MULTILINE)
    assert headings == [
        "Options", "Registry", "Data", "Training", "Evaluation", "Gate", "Serving", "Drift detection", "Signatures",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "option",
    [
        r"--budget DURATION .* \[default: 20s\]",
        r"--max-data SIZE .* \[default: 50 GiB\]",
        r"--home PATH .* \[default: \.image-classifier\]",
        r"--tracking-uri URI ",
        r"--test-fraction FRACTION .* \[default: 0\.2\]",
        r"--registry-timeout DURATION .* \[default: 30s\]",
        r"--fetch-timeout DURATION .* \[default: 5m\]",
        r"--mirror auto\|yes\|no .* \[default: auto\]",
        r"--max-latency DURATION .* \[default: 250ms\]",
        r"--recipe RECIPE ",
        r"--signing-key PATH ",
        r"--seed INTEGER .* \[default: 0\]",
        r"--max-latency-ratio NUMBER .* \[default: 3\]",
    ],
)
def test_an_option_shows_its_type_and_its_default_as_a_person_would_type_it(option):
    assert re.search(option, " ".join(help_of("run").split()))


def test_the_version_is_printed():
    output = CliRunner().invoke(main, ["--version"]).output
    assert re.fullmatch(r"image-classifier, version \d+\.\d+\S*\n", output)


HEAVY = {"torch", "mlflow", "pyarrow", "sklearn", "scipy"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "modules"),
    [
        ("run --help", 0, HEAVY | {"numpy"}),
        ("why photos", 1, HEAVY),
        ("rollback photos", 1, {"torch", "mlflow", "sklearn"}),
        ("retrain photos --if-drifted", 1, {"torch", "mlflow", "sklearn"}),
        # Every pod of a server waits for it.
        ("fetch models:/a@b folder", 1, {"mlflow", "numpy", "PIL", "flask", "onnxruntime", "cryptography"}),
    ],
)
def test_a_command_does_not_import_what_it_does_not_need(tmp_path, arguments, status, modules):
    code = (
        "import sys, click.testing, image_classifier.cli as cli;"
        f"result = click.testing.CliRunner().invoke(cli.main, {arguments.split()});"
        f"print(result.exit_code, sorted({modules} & set(sys.modules)))"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == f"{status} []\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --budget abc", "budget is 'abc' (from --budget), but must be a duration such as 90s, 3m or 1h"),
        ("data --data /no/such/folder", "/no/such/folder"),
        ("tune --budget 3s --tune-budget 10s", "a tune_budget of 10 s is too short"),
        ("tune --tune-storage tuning", "cannot open the tune_storage: Could not parse SQLAlchemy URL"),
        ("evaluate", "run `image-classifier train` first"),
        ("register", "run `image-classifier train` first"),
        ("gate", "has no candidate"),
        ("serve --model /no/such/package", "/no/such/package is not a model package"),
        ("predict --model models:/nobody/1 photo.jpg", "nobody has no version 1"),
        ("rollback", "has no champion to roll back from"),
        ("rollback --release", "nothing is blocked without a platform"),
        ("score photos --model /no/such/package", "/no/such/package is not a model package"),
        ("history --tracking-uri mlflow:5000", "use for example --tracking-uri http://mlflow:5000"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_status_1(home, arguments, message):
    result = run(*arguments.split(), home=home)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.slow
def test_libraries_add_nothing_to_the_line_of_an_error(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    done = run_process("gate", home=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: digits has no candidate")
    assert done.stdout == ""


def test_why_without_a_cluster_names_the_setting(tmp_path):
    result = run("why", "photos", home=tmp_path, HOME=str(tmp_path), KUBECONFIG="")
    assert result.exit_code == 1
    assert "error: no cluster is configured: set KUBECONFIG" in result.stderr


def test_why_of_an_empty_registry_is_json_if_requested(home):
    result = run("why", "--json", home=home)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["place"] == "none"


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path):
    done = run_process("--debug", "train", "--budget", "abc", home=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "SettingError" in done.stderr


@pytest.fixture
def unforeseen(tmp_path, monkeypatch):
    """Let the step `history` fail as no error class of this program does; returns what is raised."""
    raised = []

    def fail(*_):
        raise raised[0]

    monkeypatch.setattr("image_classifier.steps.history.history", fail)
    return raised


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("label"), "KeyError: 'label'"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (MemoryError(), "MemoryError"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum recursion depth exceeded"),
        (
            OSError(28, "No space left on device", "/data/cat.jpg"),
            "[Errno 28] No space left on device: '/data/cat.jpg'",
        ),
    ],
)
def test_an_unforeseen_exception_is_one_line_and_status_1(unforeseen, tmp_path, error, text):
    unforeseen.append(error)
    result = run("history", home=tmp_path, IMAGE_CLASSIFIER_RESULTS=str(tmp_path))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: history failed unexpectedly: ")
    assert line.endswith(f"{text}; --debug shows where")
    assert text in (tmp_path / "reason").read_text()


@pytest.mark.parametrize(
    "arguments", [["--debug", "history"], ["history", "--debug"], ["history", "--debug", "--json"]]
)
def test_debug_works_before_and_after_the_command(unforeseen, tmp_path, arguments):
    unforeseen.append(KeyError("label"))
    result = run(*arguments, home=tmp_path)
    assert result.exit_code == 1
    assert result.exception is unforeseen[0]


def test_an_interrupt_and_a_closed_pipe_are_no_errors(unforeseen, tmp_path):
    for error in (KeyboardInterrupt(), BrokenPipeError(32, "Broken pipe")):
        unforeseen[:] = [error]
        result = run("history", home=tmp_path)
        assert result.exit_code == 1
        assert "error" not in result.stderr


def test_a_failure_is_shown_if_its_results_cannot_be_written(tmp_path):
    result = run("train", "--budget", "abc", home=tmp_path, IMAGE_CLASSIFIER_RESULTS=str(tmp_path / "missing"))
    assert result.exit_code == 1
    warning, error = result.stderr.splitlines()
    assert warning.startswith("warning: cannot write the results of the step: ")
    assert error.startswith("error: budget is 'abc'")


@pytest.mark.slow
def test_a_name_that_the_encoding_of_the_output_lacks_is_escaped(tmp_path):
    images = write_images(tmp_path / "images Ω", {"日本語": (9, 9, 200), "cat": (200, 9, 9)}, count=10)
    command = [sys.executable, "-m", "image_classifier.cli", "data", "--data", images, "--home", tmp_path / "home"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="latin-1")
    assert done.returncode == 0, done.stderr
    assert "images \\u03a9: 20 training images" in done.stdout


def test_an_option_overrides_the_param_of_a_workload(tmp_path):
    workload = tmp_path / "workload.yaml"
    workload.write_text("spec:\n  params:\n    - name: data\n      value: /from/workload\n")
    assert "/from/workload" in run("--workload", str(workload), "data", home=tmp_path).stderr
    overridden = run("--workload", str(workload), "data", "--data", "/from/option", home=tmp_path)
    assert "/from/option" in overridden.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("spec:\n  params:\n    - name: buget\n      value: 60s\n", "unknown workload param 'buget'; known are: "),
        ("spec: [", "workload.yaml is not valid YAML: "),
        ("- a list", "workload.yaml is not a workload: spec.params, a list of name and value, is missing"),
        (None, "error: cannot read "),
    ],
)
def test_a_workload_file_that_cannot_be_used_is_named(tmp_path, content, message):
    workload = tmp_path / "workload.yaml"
    if content is not None:
        workload.write_text(content)
    result = run("--workload", str(workload), "history", home=tmp_path)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "workload" in result.stderr


def test_a_failure_is_a_result_of_the_step(tmp_path):
    run("train", "--budget", "abc", home=tmp_path, IMAGE_CLASSIFIER_RESULTS=str(tmp_path))
    assert (tmp_path / "verdict").read_text() == "failed"
    assert (tmp_path / "reason").read_text().startswith("budget is 'abc'")
