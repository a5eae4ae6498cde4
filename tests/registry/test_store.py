"""Opening a store: every failure is one line and within the timeout."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from image_classifier.errors import RegistryError, RegistryUnavailableError
from tests.registry.mlflow_helpers import registry_at

pytestmark = pytest.mark.slow


def open_error(tracking_uri, home, timeout=20.0):
    """The message of the error when the store is opened; it must be one line."""
    with pytest.raises(RegistryError) as caught:
        registry_at(home, tracking_uri, timeout=timeout).check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("address", ["mlflow:5000", "127.0.0.1:5000", "ftp://mlflow", "./mlruns", "file:///x"])
def test_an_unknown_scheme_is_an_error(address, tmp_path):
    assert "--tracking-uri http://mlflow:5000" in open_error(address, tmp_path)


def test_a_server_that_is_down_is_named_without_the_password(tmp_path):
    message = open_error("http://user:secret@127.0.0.1:1", tmp_path)
    assert "http://127.0.0.1:1 does not answer (Connection refused); is it running?" in message
    assert "secret" not in message


def test_a_server_that_accepts_connections_but_never_answers_times_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = open_error(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, timeout=1)
    assert "did not answer in time" in message


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, "is not an MLflow server (it does not answer with JSON): check --tracking-uri"),
        (404, "is not an MLflow server (it answers 404): check --tracking-uri"),
        (401, "MLFLOW_TRACKING_USERNAME"),
        (403, "MLFLOW_TRACKING_TOKEN"),
        (503, "answers 503 to every request; its log says why"),
    ],
)
def test_a_server_that_is_not_mlflow_or_denies_access_is_named(elsewhere, tmp_path, status, expected):
    assert expected in open_error(f"{elsewhere}/{status}", tmp_path)


@pytest.mark.parametrize(
    ("status", "kind"), [(200, RegistryError), (401, RegistryError), (503, RegistryUnavailableError)]
)
def test_only_an_unavailable_server_is_worth_waiting_for(elsewhere, tmp_path, status, kind):
    with pytest.raises(RegistryError) as caught:
        registry_at(tmp_path, f"{elsewhere}/{status}", timeout=1).versions.find("one")
    assert type(caught.value) is kind


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    assert "choose another --home" in open_error("", tmp_path / "file" / "home")
    # Root may write in any folder, but not create one in /proc.
    assert "choose another --home" in open_error("sqlite:////proc/nowhere/mlflow.db", tmp_path)


def test_a_file_that_is_not_a_database_is_an_error(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database " * 99)
    assert "file is not a database" in open_error("", tmp_path)


def test_a_database_that_another_process_locks_times_out(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as held:
        held.execute("BEGIN EXCLUSIVE")
        assert "database is locked" in open_error("", tmp_path, timeout=0.5)
    held.close()


def test_a_database_of_another_mlflow_version_is_an_error(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    database.close()
    assert "mlflow db upgrade" in open_error("", tmp_path)


TWO_PROCESSES = """
import os
from pathlib import Path
import mlflow.onnx  # imported once for both
from tests.registry.mlflow_helpers import record_training, registry_at

def work(name):
    registry = registry_at(Path("home"))
    registry.check()
    version = record_training(registry, Path("../packages") / name, name)()
    registry.history.promote(version, actor="me", reason="good")

children = []
for name in ("one", "two"):
    children.append(os.fork())
    if children[-1] == 0:
        work(name)
        os._exit(0)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


@pytest.mark.slow
def test_two_processes_share_a_new_home_and_print_nothing_and_leave_no_other_file(tmp_path):
    """No log lines, banners or progress bars; no ./mlruns and no ./mlflow.db."""
    work = tmp_path / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", TWO_PROCESSES],
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
    assert {registry.versions.find(name).number for name in ("one", "two")} == {1, 2}
    assert {event.version for event in registry.history.events()} == {1, 2}


@pytest.mark.parametrize("name", ["100%", "a%2Fb", "q?x=1", "h#ash", "sp ace", "ünï", "quo'te\"", "[x]*", "c:d@e"])
def test_a_home_may_have_any_name_and_nothing_lands_elsewhere(tmp_path, empty_database, name):
    home = tmp_path / "homes" / name
    home.mkdir(parents=True)
    shutil.copy(empty_database, home)
    registry = registry_at(home)
    registry.check()
    assert registry.versions.newest() is None
    assert os.listdir(tmp_path / "homes") == [name]
    assert set(os.listdir(home)) <= {"mlflow.db", ".mlflow.db.lock"}


def test_credentials_in_the_tracking_uri_are_not_named(tmp_path, elsewhere):
    for user in ("me:secret", "secret"):
        message = open_error(elsewhere.replace("://", f"://{user}@") + "/401", tmp_path)
        assert elsewhere in message
        assert "secret" not in message
