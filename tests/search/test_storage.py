"""Real SQLite storages."""

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import TrialState

from image_classifier.errors import TuningError
from image_classifier.search.storage import opened_storage

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed to be used")


@pytest.fixture(scope="module")
def empty_tuning_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with Optuna's tables."""
    path = tmp_path_factory.mktemp("storage") / "tuning.db"
    with opened_storage(f"sqlite:///{path}", 10, 30):
        pass
    return path


@pytest.fixture
def database(empty_tuning_database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_tuning_database, tmp_path))


@pytest.fixture
def storage(database: Path) -> Iterator[RDBStorage]:
    with opened_storage(f"sqlite:///{database}", 10, 30) as opened:
        yield opened


@pytest.fixture
def study(storage: RDBStorage) -> optuna.Study:
    return optuna.create_study(storage=storage, direction="maximize")


def lose(study: optuna.Study, database: Path, trial: optuna.Trial) -> None:
    """As if the process of the trial had died 31 seconds ago."""
    study._storage.record_heartbeat(trial._trial_id)
    with closing(sqlite3.connect(database)) as connection, connection:
        statement = "UPDATE trial_heartbeats SET heartbeat = datetime('now', '-31 seconds') WHERE trial_id = ?"
        connection.execute(statement, (trial._trial_id,))
    fail_stale_trials(study)


def test_a_trial_without_a_heartbeat_is_retried_with_the_same_parameters(study, storage, database):
    dead, alive = study.ask(), study.ask()
    dead.suggest_float("x", 0, 1)
    dead.set_user_attr("seed", 7)
    storage.record_heartbeat(alive._trial_id)
    lose(study, database, dead)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]
    retried = study.ask()
    assert retried.suggest_float("x", 0, 1) == dead.params["x"]
    assert retried.user_attrs["seed"] == 7


def test_a_trial_that_kills_every_process_is_given_up_after_three_attempts(study, database):
    for _ in range(3):
        lose(study, database, study.ask())
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 3


def test_processes_never_start_the_same_waiting_trial(database, study):
    trials, processes = 40, 4
    for _ in range(trials):
        study.enqueue_trial({})
    start = threading.Barrier(processes)

    def take(_: int) -> list[int]:
        with opened_storage(f"sqlite:///{database}", 10, 30) as storage:
            own = optuna.load_study(study_name=study.study_name, storage=storage)
            start.wait()
            return [own.ask().number for _ in range(trials // processes)]

    with ThreadPoolExecutor(processes) as threads:
        taken = [number for numbers in threads.map(take, range(processes)) for number in numbers]
    assert sorted(taken) == list(range(trials))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tuning", "cannot open the tune_storage: Could not parse SQLAlchemy URL"),
        ("sqlite:///{folder}/file/tuning.db", "cannot open the tune_storage"),
        ("dbase://host/tuning", "use for example postgresql://user@host/tuning"),
        ("mysql://user:secret@host/tuning", "No module named"),
        ("postgresql://user:secret@127.0.0.1:9/tuning", "user:***@127.0.0.1:9/tuning"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line_without_the_password(tmp_path, address, expected):
    (tmp_path / "file").touch()
    with pytest.raises(TuningError) as raised, opened_storage(address.format(folder=tmp_path), 2, 30):
        pass
    assert expected in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_storage_of_another_optuna_version_is_refused(database):
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    with (
        pytest.raises(TuningError, match="belongs to another version of Optuna"),
        opened_storage(f"sqlite:///{database}", 2, 30),
    ):
        pass


def test_the_database_of_another_program_is_refused(tmp_path, empty_database):
    database = shutil.copy(empty_database, tmp_path)
    with pytest.raises(TuningError, match="or to another program"), opened_storage(f"sqlite:///{database}", 2, 30):
        pass


def test_a_storage_that_fails_later_says_how_to_continue(database):
    with (
        pytest.raises(TuningError, match="failed: .*; run the same command to continue"),
        opened_storage(f"sqlite:///{database}", 1, 30) as opened,
    ):
        study = optuna.create_study(storage=opened)
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("DROP TABLE trials")
        study.ask()
