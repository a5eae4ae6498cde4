import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from image_classifier.errors import SourceError
from image_classifier.platform.project_source import SuiteOutcome, fetch_source, run_tests
from tests.ports import free_port

PROJECT = {"src/image_classifier/__init__.py": "ANSWER = 42\n", "README.md": "read me\n"}
TESTS = (
    "from image_classifier import ANSWER\n\n"
    "def test_right():\n    assert ANSWER == 42\n\n"
    "def test_wrong():\n    assert ANSWER == 43\n"
)


def pack(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def fetch(url, folder, sub_path="", *, wait=0.0, report=print):
    fetch_source(url, folder, sub_path=sub_path, timeout=5, wait=wait, report=report)


def test_a_source_is_unpacked(web_folder, tmp_path):
    pack(web_folder[0] / "good.tar.gz", PROJECT)
    fetch(f"{web_folder[1]}/good.tar.gz", tmp_path)
    assert (tmp_path / "README.md").read_text() == "read me\n"


def test_only_the_sub_path_is_unpacked(web_folder, tmp_path):
    files = {f"apps/one/{name}": text for name, text in PROJECT.items()} | {"other": ""}
    pack(web_folder[0] / "deep.tar.gz", files)
    fetch(f"{web_folder[1]}/deep.tar.gz", tmp_path, "apps/one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "src"]


@pytest.mark.parametrize(
    ("name", "content", "sub_path", "message"),
    [
        ("absent", None, "", "answers 404"),
        ("page", b"<html>no tarball</html>", "", "not a complete tarball"),
        ("other", {"main.py": ""}, "", "no src/image_classifier in its root, which contains main.py"),
        ("elsewhere", PROJECT, "app", "no folder 'app'"),
        ("outside", {**PROJECT, "../evil": "x"}, "", "'../evil' is outside of its root"),
        ("above", PROJECT, "../..", "no folder '../..'"),
    ],
)
def test_an_unusable_source_is_an_error_and_leaves_nothing(web_folder, tmp_path, name, content, sub_path, message):
    if isinstance(content, dict):
        pack(web_folder[0] / f"{name}.tar.gz", content)
    elif content is not None:
        (web_folder[0] / f"{name}.tar.gz").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        fetch(f"{web_folder[1]}/{name}.tar.gz", tmp_path / "source", sub_path)
    assert list((tmp_path / "source").iterdir()) == []


def test_a_server_that_does_not_answer_is_retried_for_the_given_time(tmp_path, clock):
    lines: list[str] = []
    url = f"http://127.0.0.1:{free_port()}/x.tar.gz"
    with pytest.raises(SourceError, match=rf"cannot fetch the source from {url}: .*Connection refused"):
        fetch(url, tmp_path, wait=20, report=lines.append)
    assert clock.pauses == [2.0] * 10
    assert len(lines) == 1
    assert lines[0].endswith("Connection refused; retrying for up to 20 s")


def test_a_source_that_becomes_available_is_fetched(http_answers, tmp_path, clock):
    pack(tmp_path / "good.tar.gz", PROJECT)
    http_answers.first_answers = [(404, b""), (503, b"")]
    http_answers.answer = (200, (tmp_path / "good.tar.gz").read_bytes())
    fetch(http_answers.address, tmp_path / "source", wait=20)
    assert (tmp_path / "source" / "README.md").read_text() == "read me\n"
    assert clock.pauses == [2.0, 2.0]


def test_a_permanent_failure_is_not_retried(http_answers, tmp_path, clock):
    http_answers.answer = (403, b"")
    with pytest.raises(SourceError, match="the server answers 403"):
        fetch(http_answers.address, tmp_path, wait=20)
    assert clock.pauses == []


@pytest.mark.slow
def test_the_tests_run_with_the_code_of_the_source_and_failures_are_named(tmp_path):
    write(tmp_path, {**PROJECT, "tests/test_answer.py": TESTS})
    outcome = run_tests(tmp_path)
    assert outcome == SuiteOutcome(2, ("tests/test_answer.py::test_wrong",))
    assert outcome.summary == "1 of 2 tests failed: tests/test_answer.py::test_wrong"


@pytest.mark.slow
def test_a_file_that_cannot_be_collected_is_a_failure(tmp_path):
    write(tmp_path, {**PROJECT, "tests/test_broken.py": "import no_such_module\n"})
    assert run_tests(tmp_path).failed


@pytest.mark.slow
def test_a_source_without_tests_is_refused(tmp_path):
    write(tmp_path, PROJECT)
    with pytest.raises(SourceError, match="has no tests"):
        run_tests(tmp_path)


def test_a_crash_of_pytest_is_an_error(tmp_path, monkeypatch):
    done = subprocess.CompletedProcess([], returncode=4)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(SourceError, match="pytest exited with status 4 before it ran a test"):
        run_tests(tmp_path)


def test_a_summary_lists_the_first_failed_tests():
    assert SuiteOutcome(1, ()).summary == "1 test passed"
    assert SuiteOutcome(9, ("a", "b", "c", "d", "e")).summary == "5 of 9 tests failed: a, b, c and 2 more"


def test_the_credentials_of_a_source_are_sent_and_not_named(http_answers, tmp_path):
    url = http_answers.address.replace("://", "://me:secret@") + "/main.tar.gz?token=secret"
    http_answers.answer = (403, b"")
    with pytest.raises(SourceError, match="answers 403") as caught:
        fetch(url, tmp_path)
    assert f"{http_answers.address}/main.tar.gz: " in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_source_address_that_is_none_is_an_error_without_its_credentials(tmp_path):
    with pytest.raises(SourceError, match="cannot fetch the source from http://host:port/x") as caught:
        fetch("http://me:secret@host:port/x", tmp_path)
    assert "secret" not in str(caught.value)
