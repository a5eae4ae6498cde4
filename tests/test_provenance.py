import ast
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import image_classifier
from image_classifier import provenance
from image_classifier.settings import Settings

SOURCE = Path(image_classifier.__file__).parent


@pytest.mark.parametrize(
    "change",
    [{"budget": 61.0}, {"seed": 1}, {"mirror": "no"}, {"image_size": 16}, {"retrain": "again"}],
    ids=lambda change: next(iter(change)),
)
def test_a_training_setting_changes_the_fingerprint(change):
    settings = Settings()
    assert provenance.fingerprint("c", "d", settings) != provenance.fingerprint(
        "c", "d", replace(settings, **change)
    )


def test_where_things_are_and_who_judges_does_not_change_the_fingerprint():
    settings = Settings()
    elsewhere = replace(settings, home=Path("/elsewhere"), data="/same/bytes", min_accuracy=0.9, port=9000)
    assert provenance.fingerprint("c", "d", settings) == provenance.fingerprint("c", "d", elsewhere)


@pytest.mark.parametrize("forced", ["", "because I say so"])
def test_to_look_again_at_the_same_data_trains_nothing(forced):
    settings = replace(Settings(), retrain=forced)
    once = provenance.look_again(forced, "2026-01-01 drift: size is higher (p = 0.1)")
    twice = provenance.look_again(once, "2026-01-02 schedule")
    assert len({forced, once, twice}) == 3
    for text in (once, twice):
        assert provenance.forcing(text) == forced
        again = replace(settings, retrain=text)
        assert provenance.fingerprint("c", "d", again) == provenance.fingerprint("c", "d", settings)
        assert provenance.fingerprint("c", "e", again) != provenance.fingerprint("c", "d", settings)


def test_data_and_code_change_the_fingerprint():
    settings = Settings()
    prints = {provenance.fingerprint(code, data, settings) for code in "ab" for data in "ab"}
    assert len(prints) == 4


def test_the_training_code_is_all_that_training_imports():
    """Follows the imports from where a package is trained and written; settings only hand values in."""
    reached: set[str] = set()
    to_visit = ["training.py", "export.py"]
    while to_visit:
        name = to_visit.pop()
        if name in reached:
            continue
        reached.add(name)
        for node in ast.walk(ast.parse((SOURCE / name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("image_classifier."):
                module = node.module.removeprefix("image_classifier.").replace(".", "/")
                found = [module + ".py", module + "/__init__.py"]
                found += [f"{module}/{alias.name}.py" for alias in node.names]
                to_visit += [path for path in found if (SOURCE / path).exists()]
    harmless = {"settings.py", "errors.py", "progress.py", "files.py", "cpus.py", "memory.py"}
    assert {path.split("/")[0] for path in reached} - harmless <= set(provenance.TRAINING_CODE)


def test_an_edit_of_training_code_changes_its_digest_and_an_edit_elsewhere_does_not(tmp_path):
    (tmp_path / "datasets").mkdir()
    for name in ("training.py", "datasets/idx.py", "gate.py"):
        (tmp_path / name).write_text("a = 1\n")
    before = provenance.training_code_digest(tmp_path)
    (tmp_path / "gate.py").write_text("a = 2\n")
    assert provenance.training_code_digest(tmp_path) == before
    (tmp_path / "datasets/idx.py").write_text("a = 2\n")
    assert provenance.training_code_digest(tmp_path) != before


def test_the_source_revision_is_gits_and_says_when_files_differ(tmp_path):
    assert provenance.source_revision("main@sha1:abc", tmp_path) == "main@sha1:abc"
    assert provenance.source_revision("", tmp_path) == "unknown"

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message", "first")
    assert provenance.source_revision("", tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert provenance.source_revision("", tmp_path) == git("rev-parse", "HEAD") + "-changed"
