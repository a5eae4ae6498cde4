"""Opening a store: every way in which that fails is one line, in time."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from image_classifier.errors import RegistryError
from tests.registry.mlflow_helpers import registry_at


def fails_to_open(tracking_uri, home, timeout=20.0):
    """The error's text, which must be one line."""
    with pytest.raises(RegistryError) as caught:
        registry_at(home, tracking_uri, timeout=timeout).check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "address", ["mlflow:5000", "127.0.0.1:5000", "ftp://mlflow", "./mlruns", "file:///x"]
)
def test_an_address_without_a_known_scheme_is_refused(address, tmp_path):
    assert "--tracking-uri http://mlflow:5000" in fails_to_open(address, tmp_path)


def test_a_server_that_is_down_is_named_at_once_and_without_its_password(tmp_path):
    started = time.monotonic()
    message = fails_to_open("http://user:secret@127.0.0.1:1", tmp_path)
    assert "http://127.0.0.1:1 does not answer (Connection refused); is it running?" in message
    assert "secret" not in message
    assert time.monotonic() - started < 5


def test_a_server_that_takes_connections_and_says_nothing_is_given_up_in_time(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        message = fails_to_open(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, timeout=1)
    assert "did not answer in time" in message
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, "answers, but not as an MLflow server"),
        (404, "check --tracking-uri"),
        (401, "MLFLOW_TRACKING_USERNAME"),
        (403, "MLFLOW_TRACKING_TOKEN"),
        (503, "answers 503 Service Unavailable; is it well?"),
    ],
)
def test_an_address_where_something_else_answers_is_named(elsewhere, tmp_path, status, expected):
    assert expected in fails_to_open(f"{elsewhere}/{status}", tmp_path)


def test_a_server_that_answers_with_errors_only_is_not_said_to_be_away(elsewhere, tmp_path):
    registry = registry_at(tmp_path, f"{elsewhere}/503", timeout=1)
    with pytest.raises(RegistryError, match="/503 answers 503 whenever it is asked; its log says why"):
        registry.find("one")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert "choose another --home" in fails_to_open("", tmp_path / "file" / "home")
    # Root may write where others may not, but nobody makes a folder in /proc.
    assert "choose another --home" in fails_to_open("sqlite:////proc/nowhere/mlflow.db", tmp_path)


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database " * 99)
    assert "file is not a database" in fails_to_open("", tmp_path)


def test_a_database_that_another_process_holds_is_given_up_in_time(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as held:
        held.execute("BEGIN EXCLUSIVE")
        assert "database is locked" in fails_to_open("", tmp_path, timeout=0.5)
    held.close()


def test_a_database_of_another_mlflow_is_named(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    database.close()
    assert "mlflow db upgrade" in fails_to_open("", tmp_path)


TWO_AT_A_TIME = """
import os
from pathlib import Path
import mlflow.onnx  # once for both
from tests.registry.mlflow_helpers import record_training, registry_at

def work(name):
    registry = registry_at(Path("home"))
    registry.check()
    version = record_training(registry, Path("../packages") / name, name)()
    registry.promote(version, actor="me", reason="good")

children = []
for name in ("one", "two"):
    children.append(os.fork())
    if children[-1] == 0:
        work(name)
        os._exit(0)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


def test_two_processes_share_a_new_home_without_a_word_or_a_file_elsewhere(tmp_path):
    """Neither log lines, banners nor progress bars; no ./mlruns and no ./mlflow.db."""
    work = tmp_path / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", TWO_AT_A_TIME],
        cwd=work,
        env={**environment, "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert (done.stdout, done.returncode) == ("", 0)
    assert os.listdir(work) == ["home"]
    registry = registry_at(work / "home")
    assert {registry.find(name).number for name in ("one", "two")} == {1, 2}
    assert {event.version for event in registry.history()} == {1, 2}
