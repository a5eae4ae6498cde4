import functools
import http.server
import io
import tarfile
import threading
from pathlib import Path

import pytest

from image_classifier.errors import SourceError
from image_classifier.platform.project_source import SuiteOutcome, fetch_source, run_tests

PROJECT = {"src/image_classifier/__init__.py": "ANSWER = 42\n", "README.md": "read me\n"}
PASSING = "from image_classifier import ANSWER\n\ndef test_answer():\n    assert ANSWER == 42\n"
FAILING = "def test_wrong():\n    assert False\n\ndef test_right():\n    pass\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder and the address that a real server gives its files at."""
    folder = tmp_path_factory.mktemp("served")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def pack(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))


def fetch(url: str, folder: Path, sub_path: str = "") -> None:
    fetch_source(url, folder, sub_path=sub_path, timeout=5, wait=0, report=print)


def test_a_source_is_unpacked_and_tested_with_its_own_code(place, tmp_path):
    pack(place[0] / "good.tar.gz", {**PROJECT, "tests/test_answer.py": PASSING})
    fetch(f"{place[1]}/good.tar.gz", tmp_path)
    assert (tmp_path / "README.md").read_text() == "read me\n"
    assert run_tests(tmp_path) == SuiteOutcome(1, ())


def test_only_the_sub_path_is_unpacked(place, tmp_path):
    pack(
        place[0] / "deep.tar.gz", {f"apps/one/{name}": text for name, text in PROJECT.items()} | {"other": ""}
    )
    fetch(f"{place[1]}/deep.tar.gz", tmp_path, "apps/one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "src"]


def test_a_failing_test_is_named(place, tmp_path):
    pack(place[0] / "bad.tar.gz", {**PROJECT, "tests/test_bad.py": FAILING})
    fetch(f"{place[1]}/bad.tar.gz", tmp_path)
    tested = run_tests(tmp_path)
    assert tested.in_words == "1 of 2 tests failed: tests/test_bad.py::test_wrong"


def test_tests_that_cannot_be_collected_fail(place, tmp_path):
    pack(place[0] / "broken.tar.gz", {**PROJECT, "tests/test_broken.py": "import no_such_module\n"})
    fetch(f"{place[1]}/broken.tar.gz", tmp_path)
    assert run_tests(tmp_path).failed


def test_a_source_without_tests_is_refused(place, tmp_path):
    pack(place[0] / "untested.tar.gz", PROJECT)
    fetch(f"{place[1]}/untested.tar.gz", tmp_path)
    with pytest.raises(SourceError, match="has no tests"):
        run_tests(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "sub_path", "said"),
    [
        ("absent", None, "", "answers 404"),
        ("page", b"<html>no tarball</html>", "", "no whole tarball"),
        ("other", {"main.py": ""}, "", "no src/image_classifier in its root, which has main.py"),
        ("elsewhere", PROJECT, "app", "no folder 'app'"),
        ("outside", {**PROJECT, "../evil": "x"}, "", "no whole tarball"),
        ("above", PROJECT, "../..", "no folder '../..'"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_in_words(place, tmp_path, name, content, sub_path, said):
    if isinstance(content, dict):
        pack(place[0] / f"{name}.tar.gz", content)
    elif content is not None:
        (place[0] / f"{name}.tar.gz").write_bytes(content)
    with pytest.raises(SourceError, match=said):
        fetch(f"{place[1]}/{name}.tar.gz", tmp_path / "source", sub_path)
    assert list((tmp_path / "source").iterdir()) == []


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9/x\.tar\.gz cannot be fetched"):
        fetch("http://127.0.0.1:9/x.tar.gz", tmp_path)


def test_a_server_that_comes_back_is_asked_again(tmp_path):
    pack(tmp_path / "good.tar.gz", PROJECT)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as away:
        port = away.server_port
    lines: list[str] = []

    def come_back() -> None:
        with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
            server.handle_request()

    def report(line: str) -> None:
        lines.append(line)
        threading.Thread(target=come_back).start()

    url = f"http://127.0.0.1:{port}/good.tar.gz"
    fetch_source(url, tmp_path / "source", sub_path="", timeout=5, wait=20, report=report)
    assert (tmp_path / "source" / "README.md").read_text() == "read me\n"
    assert len(lines) == 1
    assert lines[0].endswith("Connection refused; asking again for up to 20 s")
