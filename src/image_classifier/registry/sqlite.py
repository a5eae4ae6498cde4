"""The sqlite file that runs and versions are kept in where there is no tracking server."""

import fcntl
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from image_classifier.errors import RegistryError


def check_database(path: Path, timeout: float) -> None:
    """Raise RegistryError where the sqlite file cannot be written. MLflow would try for two minutes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with tempfile.TemporaryFile(dir=path.parent):
                return
        with closing(sqlite3.connect(path, timeout=timeout, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except (OSError, sqlite3.Error) as error:
        raise RegistryError(
            f"the local registry {path} cannot be written ({error}); choose another --home or --tracking-uri"
        ) from error


def create_database(path: Path, artifacts: Path) -> None:
    """Make a sqlite file with MLflow's tables, unless it is there; whole or not at all.

    MLflow itself would leave a file that it refuses to open when it is stopped while making the tables.
    """
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        # Another process may be at it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        store = SqlAlchemyStore(f"sqlite:///{draft}", artifacts.as_uri())  # type: ignore[no-untyped-call]
        store.engine.dispose()
        draft.replace(path)
