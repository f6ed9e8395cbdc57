"""From any exception to one or two lines and an exit code: 2 usage and config, then tasks.errors.

130 is Ctrl-C, 143 SIGTERM, 8 a full disk or memory, 1 a fault of graft's own.
"""

from __future__ import annotations

import errno
import signal
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache

import typer

from tasks.errors import ConfigError, GraftError, ResourceError, Terminated

USAGE_ERROR = typer.BadParameter.__mro__[1]  # typer's copy of click names it nowhere public
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
        message = f"{error.format_message()}\nTry graft --help."  # type: ignore[attr-defined]
        return Failure(kind, message, ConfigError.exit_code)
    number = _signal(error)
    if number is not None:
        return Failure(kind, f"{signal.Signals(number).name}: {STOPPED}", 128 + number)
    shortage = _shortage(error)
    if shortage is not None:
        return Failure(kind, shortage, ResourceError.exit_code)
    return Failure(kind, _unexpected(error), GraftError.exit_code)


def _signal(error: BaseException) -> int | None:
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, Terminated):
        return int(error.args[0]) if error.args else signal.SIGTERM
    if type(error).__name__ == "TerminationSignal":  # Prefect's, not imported for its sake
        return signal.SIGTERM
    return None


def _shortage(error: BaseException) -> str | None:
    """Return what ran out, wherever in the chain of causes it was first noticed."""
    for cause in _causes(error):
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return OUT_OF_MEMORY
        full = isinstance(cause, OSError) and cause.errno in DISK_FULL
        if full or "database or disk is full" in str(cause):
            return OUT_OF_DISK
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
