"""The source that a commit or a push brought: fetched, unpacked, tested."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from image_classifier.errors import SourceError
from image_classifier.patience import patiently
from image_classifier.settings import ENVIRONMENT_PREFIX

_NO_TESTS = 5
_NAMED = 3
_PAUSE_SECONDS = 2.0
_PASSING = (404, 429, 500, 502, 503, 504)
"""Answers of a server that is not ready; Flux's has no file before it has fetched all of them anew."""


class _AwayError(SourceError):
    """The server is not there, or has not got it; that may pass."""


def fetch_source(
    url: str, folder: Path, *, sub_path: str, timeout: float, wait: float, report: Callable[[str], None]
) -> None:
    """Unpack the tarball at `url` into `folder`, which is empty or absent; if given, only `sub_path` of it.

    A server that is away, or has not got it, is asked again for `wait` seconds: what serves the sources of a cluster
    is started anew at times. Raises SourceError where the address does not answer within `timeout` seconds a part,
    where what it gives is no tarball or names files outside of it, and where it has no folder `sub_path`.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def attempt() -> None:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch.") as name:
            _unpack(url, Path(name), timeout)
            for path in _project(Path(name), sub_path):
                shutil.move(path, folder / path.name)

    def tell(error: Exception) -> None:
        report(f"{error}; asking again for up to {wait:g} s")

    patiently(attempt, _AwayError, wait=wait, pause=_PAUSE_SECONDS, on_wait=tell)


def _unpack(url: str, folder: Path, timeout: float) -> None:
    try:
        with (
            urllib.request.urlopen(url, timeout=timeout) as response,
            tarfile.open(fileobj=response, mode="r|*") as archive,
        ):
            for member in archive:
                _extract(archive, member, folder)
    except urllib.error.HTTPError as error:
        kind = _AwayError if error.code in _PASSING else SourceError
        raise kind(f"the source at {url} cannot be fetched: the server answers {error.code}") from None
    except (tarfile.TarError, EOFError) as error:
        raise SourceError(f"the source at {url} is no whole tarball: {error}") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise _AwayError(f"the source at {url} cannot be fetched: {reason}") from error
    except ValueError as error:
        raise SourceError(f"the source at {url} cannot be fetched: {error}") from error


def _project(unpacked: Path, sub_path: str) -> list[Path]:
    """What is in the folder of the project."""
    project = (unpacked / sub_path).resolve()
    if not project.is_relative_to(unpacked.resolve()) or not project.is_dir():
        raise SourceError(f"the source has no folder {sub_path!r}: check --sub-path of the workload")
    if not (project / "src" / "image_classifier").is_dir():
        inside = ", ".join(sorted(path.name for path in project.iterdir())[:8]) or "nothing"
        raise SourceError(
            f"the source has no src/image_classifier in {sub_path or 'its root'}, which has {inside}; "
            "check the repository and --sub-path of the workload"
        )
    return list(project.iterdir())


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Extract a file, folder or link that stays in `folder`. (Early releases of Python 3.11 have no filters.)"""
    target = (folder / member.name).resolve()
    led_to = (target.parent / member.linkname).resolve() if member.issym() else target
    if not (target.is_relative_to(folder.resolve()) and led_to.is_relative_to(folder.resolve())):
        raise tarfile.ExtractError(f"{member.name!r} leads out of it")
    if member.isdir() or member.isfile() or member.issym():
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        archive.extract(member, folder, set_attrs=not member.issym())


@dataclass(frozen=True)
class SuiteOutcome:
    """How a test run ended."""

    count: int
    failed: tuple[str, ...]
    """The tests that failed or could not be collected."""

    @property
    def in_words(self) -> str:
        if not self.failed:
            return f"{self.count} tests passed"
        more = f" and {len(self.failed) - _NAMED} more" if len(self.failed) > _NAMED else ""
        return f"{len(self.failed)} of {self.count} tests failed: {', '.join(self.failed[:_NAMED])}{more}"


def run_tests(folder: Path) -> SuiteOutcome:
    """Run pytest on the source in `folder`, with its own code, and let it print as it goes.

    Raises SourceError where there is no test or pytest itself could not run.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)
    }
    environment["PYTHONPATH"] = str((folder / "src").resolve())
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}"]
        status = subprocess.run(command, cwd=folder, env=environment).returncode
        if status == _NO_TESTS:
            raise SourceError("the source has no tests; the chain releases none that was not tested")
        if not report.exists():
            raise SourceError(
                f"pytest ended with status {status} before it could run a test; see the step's log"
            )
        cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 (pytest wrote it)
    failed = tuple(
        _test_name(case)
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    )
    if status != 0 and not failed:
        raise SourceError(f"pytest ended with status {status}; see the step's log")
    return SuiteOutcome(len(cases), failed)


def _test_name(case: ElementTree.Element) -> str:
    place = (case.get("classname") or "").replace(".", "/")
    return f"{place}.py::{case.get('name')}" if place else str(case.get("name"))
