"""The way to MLflow: which server, whether it answers, and its faults as graft's errors."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests.exceptions import (
    ChunkedEncodingError,
    HTTPError,
    RequestException,
    SSLError,
    Timeout,
)
from requests.exceptions import ConnectionError as Unreachable
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from tasks.artifacts import disk_errors, sync_folder
from tasks.errors import ResourceError, TrackingError, TransientTrackingError
from tasks.register.address import SQLITE as SQLITE
from tasks.register.address import URI
from tasks.register.address import artifact_root as artifact_root
from tasks.register.address import database_file as database_file
from tasks.register.address import shown_address as shown_address
from tasks.register.address import tracking_uri as tracking_uri
from tasks.register.guarded import guard

PROBE_SECONDS = 8  # longest wait for a server's first answer
PROBE = "/api/2.0/mlflow/experiments/search"
PASSING_STATUS = (429, 502, 503, 504)  # HTTP: too many requests, a gateway's faults, not ready
# MLflow drops the exception that it met while it downloads, and keeps its words. Two that write
# one tag or alias at once both find it missing, and the slower one is told of a duplicate.
PASSING_WORDS = re.compile(
    r"database is locked|timed out|Connection refused|Connection aborted|Connection broken"
    r"|UNIQUE constraint failed|duplicate key|Duplicate entry"
    r"|(too many|error code) (429|502|503|504)\b"
)
LONGEST = 300  # characters of MLflow's own words in an error

_naming = threading.RLock()

# graft says what matters itself; MLflow's info lines and logged tracebacks would bury it.
if "MLFLOW_LOGGING_LEVEL" not in os.environ:
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
logging.getLogger("alembic").setLevel(logging.WARNING)
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # --json is alone there
# Seven tries, MLflow's own, hold a call for four minutes; Prefect repeats the task anyway.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
guard()


def connect(create: bool = True) -> MlflowClient:
    """Return a client of ``tracking_uri()``'s server, which has answered.

    A sqlite database that is not there is made, unless ``create`` is false. Raises
    ``TrackingError`` within ten seconds when the server does not answer (its transient kind where
    waiting may help) or the database cannot be used, ``ResourceError`` when the disk is full or
    read-only.
    """
    uri = tracking_uri()
    if is_remote(uri):
        probe(uri)
        return MlflowClient(uri)
    with tracking_errors(f"opening {uri}"):
        if not uri.startswith(SQLITE):
            return MlflowClient(uri)
        database = database_file(uri)
        with _one_opener(database, create):
            if not database.exists():
                _make(database)
            return MlflowClient(uri)


@contextmanager
def named_store() -> Iterator[None]:
    """Name ``tracking_uri()`` in the environment, for MLflow code that asks no client.

    Its sqlite registry looks a logged model up, and models:/ artifacts are looked up, in the
    process's default store, not in the client's. One thread at a time: whoever leaves takes the
    name away, also from under another.
    """
    with _naming:
        before = os.environ.get(URI)
        if before:
            yield
            return
        os.environ[URI] = tracking_uri()
        try:
            yield
        finally:
            del os.environ[URI]
            if before is not None:
                os.environ[URI] = before


@contextmanager
def tracking_errors(doing: str) -> Iterator[None]:
    """Turn MLflow's exceptions into ``TrackingError``, or its transient kind where a retry helps.

    A full disk, also one that sqlite reports, is a ``ResourceError``.
    """
    try:
        with disk_errors("the tracking store"):
            yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        raise _as_graft_error(error, doing) from error


def _as_graft_error(error: Exception, doing: str) -> ResourceError | TrackingError:
    words = " ".join(str(error).split())
    if "disk is full" in words:
        return ResourceError(f"The disk is full while {doing}.\nFree some space and run again.")
    told = shown_address(words)
    short = told if len(told) <= LONGEST else told[:LONGEST] + "…"
    kind = TransientTrackingError if _may_pass(error, words) else TrackingError
    where = f"Tracking address: {shown_address()}"
    return kind(f"MLflow failed while {shown_address(doing)}: {short}\n{where}")


def _may_pass(error: Exception, words: str) -> bool:
    """Say whether waiting may help: nobody answered, or what answered was not ready."""
    if "unable to open database" in words or "readonly database" in words:
        return False
    met = error.__cause__ or error.__context__  # what MLflow wrapped
    for fault in (error, met):
        if isinstance(fault, SSLError):  # a ConnectionError by class, but a certificate stays wrong
            return False
        if isinstance(fault, (Unreachable, Timeout, ChunkedEncodingError)):
            return True
    return _status(error) in PASSING_STATUS or PASSING_WORDS.search(words) is not None


def _status(error: Exception) -> int | None:
    """Return the HTTP status that an error stands for, if it stands for one."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code
    return None


def is_remote(uri: str) -> bool:
    """Say whether a tracking address is that of a server."""
    return uri.startswith(("http://", "https://"))


def probe(uri: str) -> None:
    """Ask a server once; raises ``TrackingError``, transient where it does not answer just now."""
    status = _ask(uri)
    if status in PASSING_STATUS:
        raise TransientTrackingError(
            f"The MLflow tracking server at {shown_address()} is not ready: HTTP {status}.\n"
            "Wait until it is, or look at its log."
        )
    if status != 200:
        raise TrackingError(
            f"{shown_address()} answers as no MLflow server should: HTTP {status}.\n"
            "Correct MLFLOW_TRACKING_URI or its credentials, or unset it to track in mlruns/."
        )


def _ask(uri: str) -> int:
    """Return the HTTP status of one question, asked once: MLflow would knock for minutes."""
    try:
        answer = http_request(
            get_default_host_creds(uri),
            PROBE,
            "POST",
            max_retries=0,
            timeout=PROBE_SECONDS,
            raise_on_status=False,
            json={"max_results": 1},
        )
    except MlflowException as error:
        kind = TransientTrackingError if _may_pass(error, str(error)) else TrackingError
        raise kind(
            f"No MLflow tracking server answers at {shown_address()}.\n"
            "Start it, correct MLFLOW_TRACKING_URI, or unset it to track in mlruns/."
        ) from error
    return int(answer.status_code)


@contextmanager
def _one_opener(database: Path, create: bool) -> Iterator[None]:
    """Let one process at a time make the tables: two at once break each other's migration."""
    if database.is_dir():  # MLflow would knock for minutes
        raise TrackingError(
            f"The tracking database {database} is a folder.\n"
            "Name a file in it, such as sqlite:///folder/mlflow.db, in MLFLOW_TRACKING_URI."
        )
    if not create and not database.exists():
        raise TrackingError(
            f"There is no tracking database at {database}.\n"
            "Run graft in the folder of your runs, or set MLFLOW_TRACKING_URI."
        )
    with disk_errors(str(database)):
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = database.with_name(f".{database.name}.lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(database: Path) -> None:
    """Make the tables whole or not at all: half a migration would be of no use to anyone.

    MLflow's migration has hundreds of steps, and sqlite waits for the disk after each, for seconds
    on a busy one. The file is nobody's until it is renamed, so one wait at the end will do.
    """
    scratch = database.with_name(f".{database.name}.new")
    scratch.unlink(missing_ok=True)  # left by a run that was killed
    event.listen(Engine, "connect", _do_not_wait)
    try:
        MlflowClient(f"{SQLITE}{scratch}")
    finally:
        event.remove(Engine, "connect", _do_not_wait)
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.rename(database)
    sync_folder(database.parent)


def _do_not_wait(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")
