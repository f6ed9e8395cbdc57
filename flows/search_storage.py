"""Where a study is kept: a journal in the search's folder, or a database that all can reach."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

from tasks.artifacts import disk_errors
from tasks.errors import ConfigError, TrackingError
from tasks.secrets import revealed

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.storages.journal import JournalFileOpenLock
    from sqlalchemy.engine import URL

VARIABLE = "GRAFT_SEARCH_STORAGE"
JOURNAL = "study.journal"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
LONGEST = 200  # characters of a database's own words
SHORT = 6  # characters of a secret that other words may have in them


def open_storage(named: str | None, root: Path) -> BaseStorage:
    """Open the storage: ``named``, else what ``GRAFT_SEARCH_STORAGE`` names, else a journal.

    The journal is ``root/study.journal``, its lock one that works in folders shared by NFS. Secrets
    take their places in ``named`` here alone. Raises ``ConfigError`` for an address that cannot be
    used, ``TrackingError`` where no database answers.
    """
    address = named or os.environ.get(VARIABLE)
    if address is None:
        return _journal(root / JOURNAL)
    with revealed(address) as url:
        return _database(url)


def _journal(path: Path) -> BaseStorage:
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

    lock = JournalFileOpenLock(str(path))
    try:
        with disk_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(path, lock)
            return JournalStorage(JournalFileBackend(str(path), lock))
    # so says Optuna of a line that is no JSON, or none that it has written
    except (ValueError, TypeError, LookupError, AssertionError) as error:
        raise TrackingError(
            f"The study's journal {path} is damaged: {type(error).__name__}: {error}\n"
            "Take the line out that is none of Optuna's, or put a copy back."
        ) from error


def _cut_torn_line(path: Path, lock: JournalFileOpenLock) -> None:
    """Cut off what a power cut left of a line: the next one would be written on to it."""
    lock.acquire()
    try:
        content = path.read_bytes() if path.exists() else b""
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _database(url: str) -> BaseStorage:
    import sqlalchemy
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        parts = sqlalchemy.make_url(url)
        shown = parts.set(query={}).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"The study's storage has an address that cannot be read; see {VARIABLE}.\n"
            "Write sqlite:///FILE or postgresql://USER:${secret:NAME}@HOST/DATABASE."
        ) from None  # the error's own words hold the address
    secrets = _secrets(parts)
    try:
        with storage_errors(f"opening {shown}", secrets):
            return RDBStorage(url)
    except (ImportError, NoSuchModuleError, RuntimeError, ValueError) as error:
        words = _words(error, secrets)
        raise ConfigError(
            f"The study's storage {shown} cannot be used: {words}\n"
            "PostgreSQL needs the extra server; other databases are not supported."
        ) from None


@contextmanager
def storage_errors(doing: str, secrets: Sequence[str] = ()) -> Iterator[None]:
    """Turn what a database or a journal's disk raises into ``TrackingError``, without ``secrets``.

    A disk that is full or takes no file is a ``ResourceError``, as everywhere.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with disk_errors(f"the study, {doing}"):
            yield
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        raise TrackingError(
            f"The study's storage failed while {doing}: {_words(error, secrets)}\n"
            "Mend it and start again: finished trials are kept."
        ) from None  # its traceback would hold the secret


def _secrets(parts: URL) -> tuple[str, ...]:
    """Return the password and all values of the query, each also as an address spells it."""
    values = [parts.password or ""]
    for each in parts.query.values():
        values += [each] if isinstance(each, str) else each
    spelled = {form for value in values for form in (value, quote(value, ""), quote_plus(value))}
    return tuple(sorted(spelled - {""}, key=len, reverse=True))


def _words(error: Exception, secrets: Sequence[str]) -> str:
    words = " ".join(str(getattr(error, "orig", None) or error).split())
    for secret in secrets:
        # a query's value may be one letter, which is in every word: such is taken for a word alone
        edges = (r"(?<!\w)", r"(?!\w)") if len(secret) < SHORT else ("", "")
        words = re.sub(re.escape(secret).join(edges), "…", words)
    return words[:LONGEST]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process of a machine, or of a shared folder, through at a time.

    Where a folder knows no locks two may count at once, and begin a trial more than is wanted.
    """
    with ExitStack() as stack:
        with disk_errors(str(path)):  # of the lock alone: what the block raises is its own
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
        yield
