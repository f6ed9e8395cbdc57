"""From any exception to one or two lines and an exit code: 2 usage and config, then tasks.errors.

130 is Ctrl-C, 143 SIGTERM, 8 a full disk or memory or a task out of time, 7 also a lost Prefect
server, 1 a fault of graft's own.
"""

from __future__ import annotations

import signal
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import typer

from tasks.artifacts import FULL
from tasks.errors import (
    RESUME,
    ConfigError,
    GraftError,
    ResourceError,
    Terminated,
    TrackingError,
)

USAGE_ERROR = typer.BadParameter.__mro__[1]  # typer's copy of click names it nowhere public
OUT_OF_DISK = "The disk is full.\nFree some space and run again."
OUT_OF_MEMORY = "Memory ran out.\nSet a smaller training.batch_size or evaluation.batch_size."
STOPPED = "stopped; nothing half-made was left behind."


@dataclass(frozen=True)
class Failure:
    """What the user is told."""

    kind: str
    message: str
    exit_code: int

    def as_dict(self) -> dict[str, str | int]:
        """Return the failure for ``--json``."""
        return asdict(self)


@lru_cache(maxsize=1)  # so that a fault is written to one log, however often it is described
def describe(error: BaseException) -> Failure:
    """Return the message and exit code of ``error``; a fault of ours is written to a log."""
    kind = type(error).__name__
    if isinstance(error, GraftError):
        return Failure(kind, str(error), error.exit_code)
    if isinstance(error, USAGE_ERROR):
        # in one line, without what pydantic puts before typer's own words
        said = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        message = f"{said.replace('Value error, ', '')}\nTry graft --help."
        return Failure(kind, message, ConfigError.exit_code)
    number = _signal(error)
    if number is not None:
        said = f"{signal.Signals(number).name}: {how_to_go_on(error) or STOPPED}"
        return Failure(kind, said, 128 + number)
    for explain, code in (
        (_shortage, ResourceError.exit_code),
        (_timeout, ResourceError.exit_code),
        (_lost_server, TrackingError.exit_code),
    ):
        words = explain(error)
        if words is not None:
            return Failure(kind, words, code)
    return Failure(kind, _unexpected(error), GraftError.exit_code)


def _signal(error: BaseException) -> int | None:
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, Terminated):
        return int(error.args[0]) if error.args else signal.SIGTERM
    if type(error).__name__ == "TerminationSignal":  # Prefect's, not imported for its sake
        return signal.SIGTERM
    return None


def how_to_go_on(error: BaseException) -> str | None:
    """Return the last note on ``error``, or else on a cause, of how a stopped run goes on."""
    for cause in _causes(error):  # of SIGTERM Prefect's exception is one, which was noted earlier
        notes = [note for note in getattr(cause, "__notes__", ()) if note.startswith(RESUME)]
        if notes:
            return f"stopped; {notes[-1].removeprefix(RESUME)}."
    return None


def _shortage(error: BaseException) -> str | None:
    """Return what ran out, wherever in the chain of causes it was first noticed."""
    for cause in _causes(error):
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return OUT_OF_MEMORY
        full = isinstance(cause, OSError) and cause.errno in FULL
        if full or "database or disk is full" in str(cause):
            return OUT_OF_DISK
    return None


def _timeout(error: BaseException) -> str | None:
    """Say which task ran out of the time that its ``task.py`` gives it."""
    if type(error).__name__ != "TaskRunTimeoutError":  # Prefect's, not imported for its sake
        return None
    rooms = [room for cause in _causes(error) for room in _rooms(cause)]
    task, file = (rooms[0], f"tasks/{rooms[0]}/task.py") if rooms else ("A task", "its task.py")
    return (
        f"{task} took longer than it may: {error}\n"
        f"Give it less to do, or raise timeout_seconds in {file}."
    )


def _rooms(error: BaseException) -> Iterator[str]:
    """Yield the rooms whose ``task.py`` an error came through."""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.name == "task.py" and path.parent.parent.name == "tasks":
            yield path.parent.name


def _lost_server(error: BaseException) -> str | None:
    """Say that Prefect's server is lost: of all that graft uses, only its client speaks httpx."""
    for cause in _causes(error):
        if any(kind.__module__.partition(".")[0] == "httpx" for kind in type(cause).__mro__):
            words = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
            return (
                f"The Prefect server did not see the run through: {words}\n"
                "See by graft models what was registered, and run again; a server that "
                "PREFECT_API_URL names has to be started first."
            )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _unexpected(error: BaseException) -> str:
    words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="graft-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.writelines(traceback.format_exception(error))
    except OSError as fault:
        return f"unexpected {words}\nNo log of it could be written: {fault}."
    return f"unexpected {words}\nThis is a fault of graft; the details are in {log.name}."
