"""accelerator.yaml makes a project that is valid by the same checks as this one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from image_classifier.cli import main
from tests.accelerator import AcceleratorError, Files, options_of, render
from tests.test_catalog import ROOT, dangling, entities

ACCELERATOR = yaml.safe_load((ROOT / "accelerator.yaml").read_text(encoding="utf-8"))
FILLED_IN = {
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
    """A project made with the answers above."""
    folder = tmp_path_factory.mktemp("project")
    for name, content in render(ACCELERATOR, repository, FILLED_IN).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def workload_of(folder: Path) -> Any:
    return yaml.safe_load((folder / "workload.yaml").read_text(encoding="utf-8"))


def test_the_workload_is_what_was_filled_in(project):
    workload = workload_of(project)
    assert workload["metadata"]["name"] == "leaves"
    assert workload["metadata"]["labels"] == {
        "apps.tanzu.vmware.com/workload-type": "ml-image",
        "apis.apps.tanzu.vmware.com/register-api": "true",
        "app.kubernetes.io/part-of": "leaves",
    }
    git = workload["spec"]["source"]["git"]
    assert git == {"url": FILLED_IN["gitUrl"], "ref": {"branch": "release/1"}}
    params = {param["name"]: param["value"] for param in workload["spec"]["params"]}
    assert params == {"data": FILLED_IN["dataSet"], "budget": "10m", "min_accuracy": 0.85}


def test_the_command_line_takes_the_workload(project):
    asked = CliRunner().invoke(main, ["--workload", str(project / "workload.yaml"), "source"])
    assert (asked.exit_code, asked.output) == (0, "no source was named; the installed code is used\n")


def test_the_catalog_entry_is_whole_and_its_own(project):
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


def test_no_answer_is_taken_for_a_word_to_replace(repository):
    words = {
        **FILLED_IN,
        "projectName": "group",
        "owner": "DOMAIN-OF-IT",
        "namespace": "team",
        "domain": "example.org",
    }
    text = render(ACCELERATOR, repository, words)["catalog-info.yaml"].decode()
    assert "https://group-predictor.team.example.org/" in text
    assert "group:default/DOMAIN-OF-IT" in text
    assert "OF-IT" not in text.replace("default/DOMAIN-OF-IT", "")


def test_what_the_operator_has_is_left_out_and_what_a_build_needs_is_there(project):
    assert {path.name for path in project.iterdir()} == {
        *(
            ".dockerignore",
            ".gitignore",
            "Dockerfile",
            "LICENSE",
            "Makefile",
            "README.md",
            "catalog-info.yaml",
        ),
        *("docs", "mkdocs.yml", "pyproject.toml", "requirements", "requirements.txt", "src", "tests"),
        "workload.yaml",
    }
    assert "https://leaves-predictor.botany.apps.example.com/" in (project / "README.md").read_text(
        encoding="utf-8"
    )


def test_the_tests_of_the_project_can_be_collected(project):
    """The chain runs them in its first step."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider"],
        cwd=project,
        env={"PYTHONPATH": str(project / "src"), "PATH": "/usr/bin:/bin", "HOME": str(project)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_api_is_not_registered_where_that_is_not_asked_for(repository):
    rendered = render(ACCELERATOR, repository, {**FILLED_IN, "registerApi": False})
    assert b"register-api" not in rendered["workload.yaml"]


def test_the_form_takes_the_longest_name_that_the_chain_takes():
    """The chain's limit: tests/manifests/test_golden.py."""
    assert options_of(ACCELERATOR, {"projectName": "a" * 43})["projectName"] == "a" * 43


def test_every_option_is_used_and_has_a_default_that_it_takes():
    values = options_of(ACCELERATOR, {})
    engine = yaml.safe_dump(ACCELERATOR["engine"], width=10_000)
    assert [name for name in values if f"#{name}" not in engine] == []


@pytest.mark.parametrize(
    ("given", "said"),
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
def test_an_answer_that_fits_nothing_is_refused_by_the_form(given, said):
    with pytest.raises(AcceleratorError, match=said):
        options_of(ACCELERATOR, given)


@pytest.mark.parametrize(
    "engine",
    [
        {"chain": [{"type": "YTT"}]},
        {"include": ["**"], "onConflict": "Fail"},
        {
            "chain": [
                {"type": "ReplaceText", "substitutions": [{"text": "a", "with": "#files.contentsOf('a')"}]}
            ]
        },
        {"chain": [{"type": "ReplaceText", "substitutions": [{"text": "a", "with": "#nothing"}]}]},
    ],
)
def test_what_the_renderer_does_not_know_is_an_error(engine):
    with pytest.raises(AcceleratorError):
        render({"accelerator": {"options": []}, "engine": engine}, {"a": b"a"}, {})
