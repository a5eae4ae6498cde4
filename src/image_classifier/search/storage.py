"""Optuna's storage of a search."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy import event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from image_classifier.errors import TuningError
from image_classifier.text import one_line

_RETRIES = 2  # of a trial whose process dies; its recipe may be the cause
_LONGEST_MESSAGE = 300


@contextmanager
def opened_storage(address: str, timeout: float, grace: int) -> Iterator[RDBStorage]:
    """Open the storage at an address of SQLAlchemy's within `timeout` seconds.

    A trial without a heartbeat for `grace` seconds fails and is retried. Raises TuningError if the storage cannot be
    opened, and if it fails later.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats, retries and plots
    shown = "tune_storage"
    try:
        url = make_url(address)
        shown = f"tune_storage {url.render_as_string(hide_password=True)}"
        if is_file := url.drivername.startswith("sqlite"):
            Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
        storage = RDBStorage(
            address,
            engine_kwargs={"connect_args": {"timeout" if is_file else "connect_timeout": int(timeout)}},
            heartbeat_interval=max(1, grace // 6),
            grace_period=grace,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(_RETRIES),
        )
    except RuntimeError as error:
        raise TuningError(f"the {shown} belongs to another version of Optuna, or to another program") from error
    except (ArgumentError, ImportError, SQLAlchemyError, OSError) as error:
        hint = "; use for example postgresql://user@host/tuning" if isinstance(error, ArgumentError) else ""
        raise TuningError(f"cannot open the {shown}: {_explain(error)}{hint}") from error
    if is_file:
        # SQLite locks a file when a transaction first writes; two processes could start the same waiting trial. See
        # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable
        storage.engine.dispose()
        event.listen(storage.engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        yield storage
    except (SQLAlchemyError, StorageInternalError) as error:
        raise TuningError(f"the {shown} failed: {_explain(error)}; run the same command to continue") from error
    finally:
        storage.engine.dispose()


def _explain(error: BaseException) -> str:
    cause = error.__cause__ or error
    return one_line(getattr(cause, "orig", None) or cause, _LONGEST_MESSAGE)
