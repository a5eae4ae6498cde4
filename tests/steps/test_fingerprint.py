import subprocess
from dataclasses import replace
from pathlib import Path

import grimp
import pytest

import image_classifier
from image_classifier.errors import TrainingError
from image_classifier.settings import Settings
from image_classifier.steps import fingerprint as provenance

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
    graph = grimp.build_graph("image_classifier")
    reached = set().union(
        *(graph.find_upstream_modules(f"image_classifier.training.{name}") for name in ("fit", "export"))
    )
    places = {module.removeprefix("image_classifier.").replace(".", "/") for module in reached}
    hashed = {name.removesuffix(".py") for name in provenance.TRAINING_CODE}
    # They hand values in and say what happens; nothing in them changes what is trained.
    harmless = {"settings", "settings/declarations", "errors", "progress", "files", "process", "text"}
    assert {place for place in places if not hashed & {place, place.split("/")[0]}} <= harmless


@pytest.fixture
def code(tmp_path):
    """A source folder with one line in each room and file of the training code, and one elsewhere."""
    for name in (*provenance.TRAINING_CODE, "gate"):
        file = tmp_path / name if name.endswith(".py") else tmp_path / name / "module.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a = 1\n")
    return tmp_path


def test_an_edit_of_training_code_changes_its_digest_and_an_edit_elsewhere_does_not(code):
    digests = [provenance.training_code_digest(code)]
    (code / "gate/module.py").write_text("a = 2\n")
    assert provenance.training_code_digest(code) == digests[0]
    for name in ("datasets/module.py", "training/module.py", "settings/recipe.py"):
        (code / name).write_text("a = 2\n")
        digests.append(provenance.training_code_digest(code))
    assert len(set(digests)) == 4


@pytest.mark.parametrize("missing", provenance.TRAINING_CODE)
def test_missing_training_code_is_an_error_and_no_digest_of_nothing(code, missing):
    place = code / missing
    (place if place.is_file() else place / "module.py").unlink()
    with pytest.raises(TrainingError, match=missing):
        provenance.training_code_digest(code)


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
