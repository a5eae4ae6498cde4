"""The project's source in a workload: download, unpack, run its tests."""

import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from image_classifier.addresses import open_url, request_to
from image_classifier.errors import SourceError
from image_classifier.settings import ENVIRONMENT_PREFIX
from image_classifier.text import Report, counted, listed, one_line, without_credentials

_NO_TESTS_STATUS = 5  # exit status of pytest
_LISTED_TESTS = 3
_RETRY_SECONDS = 2.0
_TEMPORARY_STATUSES = (404, 429, 500, 502, 503, 504)
"""Flux's source controller answers 404 after a restart, until it has fetched all sources again."""


class _TemporaryError(SourceError):
    """The server does not answer, or does not have the source yet."""


def fetch_source(url: str, folder: Path, *, sub_path: str, timeout: float, wait: float, report: Report) -> None:
    """Unpack the tarball at `url`, or its folder `sub_path`, into `folder`, which must be empty or absent.

    If the server does not answer or does not have it, retries for `wait` seconds. Raises SourceError if the server does
    not answer within `timeout` seconds, if the file is not a tarball or has members outside of its root, and if it has
    no folder `sub_path` with the project.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def attempt() -> None:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch.") as name:
            _unpack(url, Path(name), timeout)
            for path in _project_files(Path(name), sub_path):
                shutil.move(path, folder / path.name)

    def report_first(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            report(f"{state.outcome.exception()}; retrying for up to {wait:g} s")

    Retrying(
        retry=retry_if_exception_type(_TemporaryError),
        stop=stop_after_delay(wait),
        wait=wait_fixed(_RETRY_SECONDS),
        before_sleep=report_first,
        reraise=True,
    )(attempt)


def _unpack(url: str, folder: Path, timeout: float) -> None:
    shown = without_credentials(url)
    failure = f"cannot fetch the source from {shown}"
    try:
        with (
            open_url(request_to(url), timeout=timeout) as response,
            tarfile.open(fileobj=response, mode="r|*") as archive,
        ):
            for member in archive:
                _extract(archive, member, folder)
    except urllib.error.HTTPError as error:
        kind = _TemporaryError if error.code in _TEMPORARY_STATUSES else SourceError
        raise kind(f"{failure}: the server answers {error.code}") from None
    except (tarfile.TarError, EOFError) as error:
        raise SourceError(f"the source at {shown} is not a complete tarball: {error}") from error
    except OSError as error:
        raise _TemporaryError(f"{failure}: {getattr(error, 'reason', error)}") from error
    except (ValueError, http.client.HTTPException) as error:
        raise SourceError(f"{failure}: {one_line(error)}") from error


def _project_files(unpacked: Path, sub_path: str) -> list[Path]:
    project = (unpacked / sub_path).resolve()
    if not project.is_relative_to(unpacked.resolve()) or not project.is_dir():
        raise SourceError(f"the source has no folder {sub_path!r}: check --sub-path of the workload")
    if not (project / "src" / "image_classifier").is_dir():
        content = ", ".join(sorted(path.name for path in project.iterdir())[:8]) or "nothing"
        raise SourceError(
            f"the source has no src/image_classifier in {sub_path or 'its root'}, which contains {content}; "
            "check the repository and --sub-path of the workload"
        )
    return list(project.iterdir())


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Extract a file, folder or symbolic link that stays inside `folder`; skip other kinds.

    tarfile's own filter for this is missing in Python 3.11.0 to 3.11.3.
    """
    target = (folder / member.name).resolve()
    linked = (target.parent / member.linkname).resolve() if member.issym() else target
    if not (target.is_relative_to(folder.resolve()) and linked.is_relative_to(folder.resolve())):
        raise tarfile.ExtractError(f"{member.name!r} is outside of its root")
    if member.isdir() or member.isfile() or member.issym():
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        archive.extract(member, folder, set_attrs=not member.issym())


@dataclass(frozen=True)
class SuiteOutcome:
    """The outcome of a test run."""

    count: int
    failed: tuple[str, ...]  # tests that failed, or files whose tests could not be collected

    @property
    def summary(self) -> str:
        if not self.failed:
            return f"{counted(self.count, 'test')} passed"
        return f"{len(self.failed):,} of {self.count:,} tests failed: {listed(self.failed, _LISTED_TESTS)}"


def run_tests(folder: Path) -> SuiteOutcome:
    """Run pytest on the source in `folder`, with the code in it; its output goes to this process's.

    Raises SourceError if there are no tests, or pytest itself fails.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    environment["PYTHONPATH"] = str((folder / "src").resolve())
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}"]
        status = subprocess.run(command, cwd=folder, env=environment).returncode
        if status == _NO_TESTS_STATUS:
            raise SourceError("the source has no tests; untested code is not released")
        if not report.exists():
            raise SourceError(f"pytest exited with status {status} before it ran a test; see the log of the step")
        cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 (pytest wrote it)
    failed = tuple(_test_name(case) for case in cases if {"failure", "error"} & {child.tag for child in case})
    if status != 0 and not failed:
        raise SourceError(f"pytest exited with status {status}; see the log of the step")
    return SuiteOutcome(len(cases), failed)


def _test_name(case: ElementTree.Element) -> str:
    file = (case.get("classname") or "").replace(".", "/")
    return f"{file}.py::{case.get('name')}" if file else str(case.get("name"))
