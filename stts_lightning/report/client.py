"""MLflow's client: on a database that is made if there is none, or on a server, either of which may be away.

A server that is gone, a database that somebody holds and a disk that is full all look alike from here.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stts_lightning.config import TrackingConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

# How long a call may take that gets no answer: a little over 90 s, where MLflow's own defaults come to a quarter of an
# hour. A timeout is longer than the 20 s that a server waits for its database. Jitter would draw from the generator
# that a training's seed has set.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
}


class MlflowAway(ValueError):
    """MLflow did not take something; the message says why and what to do."""


@contextmanager
def answering(tracking: TrackingConfig) -> Iterator[None]:
    """Raises MlflowAway for whatever MLflow's client, its database or the disk under its artifacts raises."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise MlflowAway(
            f"tracking.uri={tracking.uri!r}: MLflow does not take it ({_reason(error)}). See that its server runs, its "
            "disk has room and nothing holds its database; tracking.enabled=false does without."
        ) from error


@contextmanager
def told_if_away(tracking: TrackingConfig, remedy: str) -> Iterator[None]:
    """Go on where MLflow is away, and say so.

    Args:
        remedy: where that lies which MLflow did not get, and what sends it.
    """
    try:
        with answering(tracking):
            yield
    except MlflowAway as error:
        log.warning("%s %s", error, remedy)


def tracking_uri(tracking: TrackingConfig) -> str:
    """The database's address; a relative SQLite path is made absolute and its folder created."""
    path = _sqlite_path(tracking.uri)
    if path is None:
        return tracking.uri
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path}"


def tracking_client(tracking: TrackingConfig) -> MlflowClient:
    """A client on the database, which is made if there is none (about 3 s on an SSD, once).

    Processes may call this at once on a fresh database. A lock of our own sees to that: with MLflow's
    alone, two of them run the same migrations and one dies of it. Later writes wait for each other in SQLite.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # no calls home
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # it warns where git is not installed
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a line for each migration of a new database
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").addFilter(_is_not_raised_too)
    from mlflow import MlflowClient

    with _one_at_a_time(_sqlite_path(tracking.uri)):
        return MlflowClient(tracking_uri(tracking))


@contextmanager
def _one_at_a_time(database: Path | None) -> Iterator[None]:
    """Hold ``<database>.lock``; a server's database is its own affair (None)."""
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _sqlite_path(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).absolute() if uri.startswith(prefix) else None


def _is_not_raised_too(record: logging.LogRecord) -> bool:
    """False for the tracebacks that MLflow prints of the errors that it raises."""
    return record.levelno != logging.ERROR


def _reason(error: Exception) -> str:
    """The line that says it, without the statement and the traceback that SQLAlchemy adds."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("(raised as a result")]
    return lines[0] if lines else type(error).__name__
