"""A project made from accelerator.yaml is complete, and has the answers of the form."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from image_classifier.cli.command import main
from tests.accelerator import AcceleratorError, Files, options_of, render
from tests.test_catalog import ROOT, dangling, entities

ACCELERATOR = yaml.safe_load((ROOT / "accelerator.yaml").read_text(encoding="utf-8"))
ANSWERS = {
    "projectName": "leaves",
    "dataSet": "s3://team/leaves.zip?versionId=7",
    "budget": "10m",
    "minAccuracy": 0.85,
    "gitUrl": "https://git.example.org/botany/image-classifier.git",
    "gitBranch": "release/1",
    "owner": "image-classifier-fans",
    "namespace": "botany",
    "domain": "apps.example.com",
}


@pytest.fixture(scope="module")
def repository() -> Files:
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def project(repository: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project made with ANSWERS."""
    folder = tmp_path_factory.mktemp("project")
    for name, content in render(ACCELERATOR, repository, ANSWERS).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def workload_of(folder: Path) -> Any:
    return yaml.safe_load((folder / "workload.yaml").read_text(encoding="utf-8"))


def test_the_workload_has_the_answers_of_the_form(project):
    workload = workload_of(project)
    assert workload["metadata"]["name"] == "leaves"
    assert workload["metadata"]["labels"] == {
        "apps.tanzu.vmware.com/workload-type": "ml-image",
        "apis.apps.tanzu.vmware.com/register-api": "true",
        "app.kubernetes.io/part-of": "leaves",
    }
    git = workload["spec"]["source"]["git"]
    assert git == {"url": ANSWERS["gitUrl"], "ref": {"branch": "release/1"}}
    params = {param["name"]: param["value"] for param in workload["spec"]["params"]}
    assert params == {"data": ANSWERS["dataSet"], "budget": "10m", "min_accuracy": 0.85}


def test_the_command_line_reads_the_workload(project):
    result = CliRunner().invoke(main, ["--workload", str(project / "workload.yaml"), "source"])
    assert (result.exit_code, result.output) == (0, "no --source-url is set; using the installed code\n")


def test_the_catalog_has_the_project_under_its_own_name(project):
    assert dangling(project) == {"group:default/image-classifier-fans"}
    assert [entity["metadata"]["name"] for entity in entities(project)] == [
        "leaves",
        "leaves",
        "leaves",
        "leaves-model",
        "mlflow",
    ]
    (component,) = (entity for entity in entities(project) if entity["kind"] == "Component")
    selector = component["metadata"]["annotations"]["backstage.io/kubernetes-label-selector"]
    assert selector == "app.kubernetes.io/part-of=leaves"
    links = {link["url"] for link in component["metadata"]["links"]}
    assert "https://leaves-predictor.botany.apps.example.com/docs" in links
    assert "https://mlflow.apps.example.com/#/models/leaves" in links


def test_an_answer_that_contains_a_replaced_word_is_not_replaced(repository):
    answers = {
        **ANSWERS,
        "projectName": "group",
        "owner": "DOMAIN-PLACEHOLDER",
        "namespace": "team",
        "domain": "example.org",
    }
    text = render(ACCELERATOR, repository, answers)["catalog-info.yaml"].decode()
    assert "https://group-predictor.team.example.org/" in text
    assert "group:default/DOMAIN-PLACEHOLDER" in text
    assert "PLACEHOLDER" not in text.replace("default/DOMAIN-PLACEHOLDER", "")


def test_the_project_has_the_files_of_a_developer_and_not_those_of_an_operator(project):
    assert {path.name for path in project.iterdir()} == {
        *(".dockerignore", ".gitignore", "Dockerfile", "LICENSE", "Makefile", "README.md", "catalog-info.yaml"),
        *("docs", "mkdocs.yml", "pyproject.toml", "requirements", "requirements.txt", "src", "tests"),
        "workload.yaml",
    }
    assert "https://leaves-predictor.botany.apps.example.com/" in (project / "README.md").read_text(encoding="utf-8")


def test_the_tests_of_the_project_import_only_its_own_helpers(project):
    for path in project.glob("tests/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("tests.", "tools.")):
                helper = project / node.module.replace(".", "/")
                assert helper.with_suffix(".py").is_file() or helper.is_dir(), f"{path} imports {node.module}"


@pytest.mark.slow
def test_the_tests_of_the_project_that_read_its_files_can_be_collected(project):
    """The chain runs them before it trains."""
    files = [path for path in project.glob("tests/**/test_*.py") if "__file__" in path.read_text(encoding="utf-8")]
    assert files
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", *files],
        cwd=project,
        env={"PYTHONPATH": str(project / "src"), "PATH": "/usr/bin:/bin", "HOME": str(project)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_api_is_not_registered_if_the_form_says_so(repository):
    rendered = render(ACCELERATOR, repository, {**ANSWERS, "registerApi": False})
    assert b"register-api" not in rendered["workload.yaml"]


def test_the_form_accepts_a_name_of_the_maximum_length():
    """tests/manifests/test_golden.py has the limit of the chain."""
    assert options_of(ACCELERATOR, {"projectName": "a" * 43})["projectName"] == "a" * 43


def test_every_option_is_used_and_has_a_valid_default():
    values = options_of(ACCELERATOR, {})
    engine = yaml.safe_dump(ACCELERATOR["engine"], width=10_000)
    assert [name for name in values if f"#{name}" not in engine] == []


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"projectName": "My Photos"}, "projectName is 'My Photos', which does not match"),
        ({"projectName": "a" * 44}, "projectName"),
        ({"projectName": ""}, "projectName is required"),
        ({"dataSet": 'digits"\n'}, "dataSet"),
        ({"budget": "soon"}, "budget"),
        ({"minAccuracy": 90}, "minAccuracy is 90"),
        ({"gitUrl": "file:///etc"}, "gitUrl"),
        ({"owner": "my team"}, "owner"),
        ({"color": "red"}, "there is no option color"),
    ],
)
def test_an_invalid_answer_is_refused(answers, message):
    with pytest.raises(AcceleratorError, match=message):
        options_of(ACCELERATOR, answers)


@pytest.mark.parametrize(
    "engine",
    [
        {"chain": [{"type": "YTT"}]},
        {"include": ["**"], "onConflict": "Fail"},
        {"chain": [{"type": "ReplaceText", "substitutions": [{"text": "a", "with": "#files.contentsOf('a')"}]}]},
        {"chain": [{"type": "ReplaceText", "substitutions": [{"text": "a", "with": "#nothing"}]}]},
    ],
)
def test_an_unsupported_transform_is_an_error(engine):
    with pytest.raises(AcceleratorError):
        render({"accelerator": {"options": []}, "engine": engine}, {"a": b"a"}, {})
